"""Latents of topics and of syntax, and how bursty they are."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from temporal_sae.errors import RunError
from temporal_sae.study.bursts import FILE, Told, area, describe, only_of, read_latents, section

ROOT = Path(__file__).parents[2]


def told(question, latent, burstiness=1.0, density=0.1, name="x"):
    return Told(question, name, latent, burstiness, density)


def test_the_area_is_that_of_scikit_learn_and_its_interval_holds_it():
    rng = np.random.default_rng(3)
    first, second = rng.integers(5, size=40) + 1.0, rng.integers(5, size=30) + 0.0  # with ties
    found = area(first, second)
    labels = [1] * 40 + [0] * 30
    assert found.value == pytest.approx(roc_auc_score(labels, [*first, *second]))
    assert found.low < found.value < found.high
    assert area([2.0, 3.0], [0.0, 1.0]) == (1.0, 1.0, 1.0)
    assert area([1.0], [1.0]).value == 0.5
    assert found == area(first, second)


def test_a_latent_counts_once_and_only_where_one_question_has_it():
    rows = [told("package", 3), told("package", 1, name="a"), told("package", 1, name="b")]
    rows += [told("kind", 3), told("kind", 5), told("kind", 6, burstiness=float("nan"))]
    assert [row.latent for row in only_of(rows, "package")] == [1]
    assert [row.latent for row in only_of(rows, "kind")] == [5]


def test_the_section_says_both_areas(tmp_path):
    path = tmp_path / FILE
    path.write_text(
        "question,class,latent,burstiness,density\n"
        "package,os,1,3,0.2\npackage,os,2,4,0.1\nkind,code,3,1,0.1\nkind,code,4,2,0.2\n"
    )
    text = "\n".join(section(path))
    assert "2 tell packages alone, 2 kinds alone" in text
    assert "| burstiness | 1.000 | [1.000, 1.000] |" in text
    assert "| density | 0.500 |" in text
    path.write_text("latent\n1\n")
    with pytest.raises(RunError, match=r"bursts\.csv: must have the columns question, class,"):
        read_latents(path)


def test_a_run_without_an_atlas_is_told_how_to_make_one(tmp_path):
    with pytest.raises(RunError, match=r"latents\.parquet: is missing; python -m temporal_sae"):
        describe(tmp_path, tmp_path)


@pytest.mark.slow
def test_the_latents_of_a_run_are_described_and_the_same_bytes_again(tmp_path):
    def call(*words):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    small = ["trainer.num_tokens=20480", "trainer.warmup_steps=2", "sae.d_sae=256", "sae.k=8"]
    call("temporal_sae", "hydra.run.dir=run", "eval=none", *small)
    call("temporal_sae.atlas", "run", "--tokens", "20000")
    assert (
        call("temporal_sae.study", "describe", "run", "--data", "data") == f"written: data/{FILE}\n"
    )
    first = (tmp_path / "data" / FILE).read_bytes()
    rows = read_latents(tmp_path / "data" / FILE)
    assert len(rows) == 20 * (5 + 3)
    assert {row.name for row in rows if row.question == "kind"} == {"code", "docstring", "comment"}
    assert all(0 <= row.latent < 256 and 0 <= row.density <= 1 for row in rows)
    call("temporal_sae.study", "describe", "run", "--data", "data")
    assert first == (tmp_path / "data" / FILE).read_bytes()
