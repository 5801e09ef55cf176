"""Run an evaluation in the test's own process, where what it does can be watched."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import jaxtyping
import numpy as np
import torch

from temporal_sae.eval.saebench import guards, worker
from temporal_sae.eval.saebench.options import Job, completed
from temporal_sae.eval.saebench.process import link_organizations
from temporal_sae.sae import SparseAutoencoder
from tests.bench.standins.models import PYTHIA
from tests.bench.standins.saes import HOOK, SMALL


@contextmanager
def as_in_the_worker(work: Path, hub: Path) -> Iterator[None]:
    """The working directory of a worker; what the process was comes back in the end."""
    functions = functions_of_sae_bench()
    states = (random.getstate(), np.random.get_state(), torch.get_rng_state())
    before = Path.cwd()
    offline = huggingface_hub.constants.HF_HUB_OFFLINE
    cache = datasets.config.HF_DATASETS_CACHE
    disabled = jaxtyping.config.jaxtyping_disable
    grad = torch.is_grad_enabled()
    deterministic = torch.are_deterministic_algorithms_enabled()
    work.mkdir(parents=True, exist_ok=True)
    if not any(work.iterdir()):
        link_organizations(hub, work)
    os.chdir(work)
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    datasets.config.HF_DATASETS_CACHE = work.parent / "cache"
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", disabled)
        huggingface_hub.constants.HF_HUB_OFFLINE = offline
        datasets.config.HF_DATASETS_CACHE = cache
        torch.use_deterministic_algorithms(deterministic)
        torch.set_grad_enabled(grad)
        os.chdir(before)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        for module, own in functions.items():
            vars(sys.modules[module]).update(own)


def functions_of_sae_bench() -> dict[str, dict[str, Any]]:
    """Every function of every module of sae_bench, once those of the evaluations are loaded."""
    guards.without_published_saes()
    for name in ("absorption", "core", "scr_and_tpp", "sparse_probing"):
        import_module(f"sae_bench.evals.{name}.main")
    return {
        name: {key: value for key, value in vars(module).items() if callable(value)}
        for name, module in list(sys.modules.items())
        if name.startswith("sae_bench")
    }


def make_job(work: Path, evaluation: str, *, keep: bool = False, **options: Any) -> Job:
    """At the small sizes; the SAE and what is kept lie in `work`'s parent."""
    return Job(
        evaluation=evaluation,
        sae_folder=str(work.parent / "sae"),
        architecture="topk",
        model_name=PYTHIA,
        hook_name=HOOK,
        prepend_bos=True,
        device="cpu",
        llm_dtype="float32",
        llm_batch_size=32,
        seed=42,
        options=completed(evaluation, {**SMALL[evaluation], **options}),
        artifacts=str(work.parent / "kept"),
        keep_artifacts=keep,
    )


def evaluate_inside(
    sae: SparseAutoencoder, work: Path, hub: Path, evaluation: str, **options: Any
) -> dict[str, Any]:
    """SAEBench's record of an SAE, from this process."""
    sae.save(work.parent / "sae")
    with as_in_the_worker(work, hub):
        return worker.evaluate(make_job(work, evaluation, **options))
