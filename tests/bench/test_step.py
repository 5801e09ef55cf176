"""The benchmark of a training step, at a size that takes seconds."""

import json
import subprocess
import sys

import pytest

from tests.pages import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["dense", "screened"])
def test_our_step_is_measured_plain_and_with_the_method(tmp_path, encoder):
    words = ["--subjects", "ours", "ours+method", "--shapes", "32,512,4,64", "--repeats", "1"]
    command = [sys.executable, ROOT / "benchmarks" / "step.py", *words, "--encoder", encoder]
    done = subprocess.run(
        [*command, "--out", "figures.json"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["options"]["ours"] == {"encoder": encoder}
    assert [row["subject"] for row in figures["results"]] == ["ours", "ours+method"]
    assert all(row["seconds"] > 0 and row["repeats"] >= 1 for row in figures["results"])
