"""A small study from its sweeps to its page, as a person runs it."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from temporal_sae.errors import RunError
from temporal_sae.study.run import run_study
from temporal_sae.study.table import read_table
from tests.study.designs import MADE_UP

SMALL = replace(
    MADE_UP,
    overrides=(*MADE_UP.overrides, "trainer.num_tokens=10_240", "trainer.warmup_steps=2"),
    settings=MADE_UP.settings[:1],
    arms=MADE_UP.arms[:1],
    seeds=(1,),
    spread=(1.0, 2.0),
    budget=0.01,
    contrasts=(),
)


def study(*words, cwd):
    command = [sys.executable, "-m", "temporal_sae.study", *words]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_a_study_runs_goes_on_and_keeps_to_its_design(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    folder, data = tmp_path / "sweeps", tmp_path / "data"
    run_study(SMALL, folder, data)
    rows = read_table(data / "made_up.csv", SMALL)
    assert [(r.stage, r.arm) for r in rows].count(("tuning", "pairs")) == 2
    assert [(r.stage, r.arm) for r in rows].count(("final", "pairs")) == 2
    assert all(0 < r.metrics["core.explained_variance"] < 1 for r in rows)
    assert not list(folder.rglob("step_*"))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("results.json")}
    table = (data / "made_up.csv").read_bytes()
    run_study(SMALL, folder, data)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("results.json")}
    assert table == (data / "made_up.csv").read_bytes()
    with pytest.raises(RunError, match=r"was fixed as \w+, and is \w+ now; choose another --data"):
        run_study(replace(SMALL, budget=0.5), folder, data)


def test_wrong_words_are_one_line(tmp_path):
    done = study("run", "toys", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip() == "error: NAME='toys': must be one of toy, twin, twin_k, bundled"
    assert not list(tmp_path.iterdir())


def test_the_report_is_written_where_it_is_asked_for(tmp_path):
    done = study("report", "--data", "data", "--page", "page.md", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "written: page.md\n")
    assert (tmp_path / "page.md").read_text().startswith("# Does co-activation help")
