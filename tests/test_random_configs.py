"""Forty random configurations over all groups and options: each finishes, or says why not."""

import json
import math
import random
import re
import shlex
import time
import traceback
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from temporal_sae.experiment import run
from temporal_sae.sae import load_sae
from tests.random_configs import (
    DRAWN_FROM,
    GIVEN,
    GROUPS,
    LEFT_OUT,
    VALUES,
    Places,
    draw_config,
    keys_of,
    top_keys,
)
from tests.test_config_surface import CONF

N_CONFIGS = 40
ENOUGH = 24  # more than half: a new option changes every draw after it
MAY_BE_NULL = {
    *("sparsity_penalty", "l0_target", "resample_steps"),
    *("layer", "lm_name", "submodule_name"),  # of activations without a language model
    # What a run is too short to measure.
    *("top_pairs_half_life_windows", "fano_factor_median", "decoder_drift", "absorption"),
    *("joint_overlap_ap", "cosine_ap", "mean_abs_phi", "fractional_absorption", "hedging"),
    *("leakage", "leakage_true", "bursty_share", "burstiness_median"),
}

FINISHED = "finished"
# What a person may be told of options that do not go together, and where the docs say so.
REFUSALS = {
    r"trainer\.warmup_steps=\d+: must be at most the \d+ steps of the run; .*": (
        "trainer/default",
        "at most the steps of the run",
    ),
    r"activations\.buffer_tokens=\d+: must be at least trainer\.batch_size=\d+": (
        "activations/harvest",
        "at least trainer.batch_size",
    ),
    r"trainer\.constraint='frozen_encoder': must be null, aligned or .*": (
        "trainer/default",
        "no frozen matrix with sae.resample_every",
    ),
    r"trainer\.encoder='screened': must be auto or dense .*": (
        "trainer/default",
        "not with step=dense, precision=bfloat16, sae=standard|gated|lista",
    ),
    r"trainer\.gradients='rows': must be auto or dense .*": (
        "trainer/default",
        "sae=topk|batch_topk, with constraint=null, not with step=dense",
    ),
    r"sae\.k=\d+: must be at most d_sae=\d+": ("sae/topk", "at most d_sae"),
    r"tracker\.stream='permuted': must be one of shuffled, ordered": (
        "tracker/transcript",
        "shuffled | ordered",
    ),
    r"loss\.estimator='sampled': must be exact or auto with .*": (
        "loss/orthogonality",
        "not with gram=activations, weighting=long_average, tracker=transcript",
    ),
    r"loss\.permuted=(True|'rates'): must be false with weighting=uniform.*": (
        "loss/orthogonality",
        "not with weighting=uniform",
    ),
    r"loss\.(weighting|permuted)='\w+': must be used with tracker\.totals_from=TOKENS.*": (
        "loss/orthogonality",
        "with tracker.totals_from",
    ),
    r"loss\.n_chunks=\d+: must be at most .*": ("loss/ortsae", "of at least two latents"),
    r"tracker\.prune_below=[-e.\d]+: must be 0 with storage=\w+": (
        "tracker/co_activation",
        "with storage=sparse or auto",
    ),
    r"tracker\.sharded=True: must be false with storage=reference": (
        "tracker/co_activation",
        "not with storage=reference",
    ),
    r"eval=\w+ needs held-out rows, and the held_out text holds \d+ tokens.*eval=none": (
        "eval/core",
        "on held-out text",
    ),
    r"eval=(core|tasks) needs a language model, and these activations come without .*": (
        "activations/harvest",
        "A language model",
    ),
    r"eval=ground_truth needs .*, and these activations come without features .*": (
        "eval/ground_truth",
        "activations=synthetic",
    ),
}


def test_every_key_of_every_option_has_values_to_draw():
    assert set(top_keys()) == set(VALUES[""])
    for group in DRAWN_FROM:
        options = [option for option in GROUPS[group] if (group, option) not in LEFT_OUT]
        keys = {key for option in options for key in keys_of(group, option)}
        assert {key for key in keys if f"{group}.{key}" not in GIVEN} == set(VALUES[group])


@pytest.mark.parametrize(("option", "words"), REFUSALS.values())
def test_the_docs_name_what_does_not_go_together(option, words):
    assert words in (CONF / f"{option}.yaml").read_text()


@pytest.fixture
def places(random_gemma, text_folder, tmp_path):
    folder = tmp_path / "data_set"
    folder.mkdir()
    words = ["def", "return", "self", "value", "import", "from", "index", "array", "while", "yield"]
    draw = random.Random(1)
    rows = [{"text": " ".join(draw.choices(words, k=60))} for _ in range(600)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (arrays := tmp_path / "arrays").mkdir()
    np.save(arrays / "rows.npy", np.random.default_rng(1).normal(size=(2000, 12)))
    return Places(str(random_gemma), str(text_folder), str(folder), str(arrays))


@pytest.fixture
def trained(monkeypatch):
    """The components of the runs that have begun, the latest last."""
    seen = []
    build = run.build_components

    def remember(*arguments):
        seen.append(build(*arguments))
        return seen[-1]

    monkeypatch.setattr(run, "build_components", remember)
    return seen


def nulls_in(value, name=""):
    """Names of what is null in results; infinities and NaN are written so."""
    if isinstance(value, dict):
        return {n for key, item in value.items() for n in nulls_in(item, key)}
    return {name} if value is None else set()


def check_finished(folder, sae):
    """Finite metrics, and an SAE that comes back as it was."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines
    assert all(math.isfinite(value) for line in lines for value in line.values()), lines[-1]
    assert nulls_in(json.loads((folder / "results.json").read_text())) <= MAY_BE_NULL
    loaded, x = load_sae(folder / "sae"), torch.randn(7, sae.d_in)
    assert torch.equal(loaded(x), sae(x))
    assert torch.equal(loaded.encode_dense(x), sae.encode_dense(x))


@pytest.mark.slow
def test_forty_random_configurations(command, places, trained, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    datasets.disable_progress_bars()  # they go where the one line goes
    draw = random.Random(1)
    outcomes = []
    for n in range(N_CONFIGS):
        drawn = draw_config(draw, places)
        began = time.process_time()
        outcomes.append(outcome_of(command, f"run{n}", drawn.overrides(), trained))
        seconds = time.process_time() - began
        with capsys.disabled():
            options = " ".join(f"{group}={option}" for group, option in drawn.options.items())
            print(f"{n:2d}  {seconds:4.1f} s  {outcomes[-1]}  ({options})")  # noqa: T201
    refused = [outcome for outcome in outcomes if outcome != FINISHED]
    assert [o for o in refused if not any(re.fullmatch(r, o) for r in REFUSALS)] == []
    assert outcomes.count(FINISHED) >= ENOUGH


def outcome_of(command, folder, overrides, trained):
    """How a run has ended: FINISHED, or the line that refuses it, or what went wrong."""
    try:
        code, _, err = command(*overrides, f"hydra.run.dir={folder}")
        if code == 0:
            check_finished(Path(folder), trained[-1].sae)
            return FINISHED
    except Exception:  # noqa: BLE001 - the table shows all, and what to type to see it again
        return f"{traceback.format_exc()}\n{shlex.join(overrides)}"
    if code == 2 and err.startswith("error: ") and err.count("\n") == 1:
        return err.removeprefix("error: ").rstrip()
    return f"exit code {code}: {err}\n{shlex.join(overrides)}"
