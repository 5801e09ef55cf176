"""A store under kills, and shared by processes at the same time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from temporal_sae.sae import load_sae
from tests.activations.stores import HOOK, files_in

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_twenty_kills_and_two_at_once_change_neither_store_nor_sae(
    random_gemma, text_folder, tmp_path
):
    options = [
        *("activations=store", "activations.num_tokens=8000", "activations.held_out_tokens=600"),
        *(
            "activations.context_size=16",
            "activations.lm_batch_size=8",
            "activations.dtype=float32",
        ),
        *("activations.shard_rows=300", "activations.mixing_rows=1000"),
        *("activations.buffer_tokens=256", "sae.d_sae=64", "sae.k=4", "trainer.num_tokens=9000"),
        *("trainer.batch_size=64", "trainer.warmup_steps=2", "trainer.checkpoint_every=5"),
        *("tracker.window_size=200", "eval.n_reconstruction_sequences=8", "device=cpu"),
        *("model=hf", f"model.name={random_gemma}", f"model.hook_name={HOOK}"),
        *("data=text_files", f"data.path={text_folder}", "data.held_out_fraction=0.3"),
    ]
    script = [sys.executable, "-m", "tests.activations.killed_runs", str(tmp_path), *options]
    # With one thread a fork needs none that its parent had.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 kills" in done.stdout
    whole = files_in(tmp_path / "whole")
    expected = load_sae(tmp_path / "undisturbed/sae").W_dec
    for store in ("killed", "both", "inherited"):
        assert files_in(tmp_path / store) == whole
    for run in ("disturbed", "together0", "together1", "one1"):
        assert load_sae(tmp_path / run / "sae").W_dec.equal(expected)
