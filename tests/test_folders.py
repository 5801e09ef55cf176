"""Folders that nobody has named: each run and sweep gets its own, with a name that fits."""

from datetime import datetime
from pathlib import Path

import hydra.core.utils
import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_sae import cli
from temporal_sae.experiment.together import Ending
from temporal_sae.folders import as_folder_name, make_new
from temporal_sae.sweep import worker

NOW = datetime(2030, 1, 2, 3, 4, 5)


@pytest.fixture
def same_second(command, monkeypatch):
    """Runs command lines in one second, each job of which leaves a file.

    Returns the exit codes, and all folders that are left with a file.
    """

    def leave(cfg, folder, overrides):
        (folder / "left").touch()
        return 0.0

    def leave_all(requests, about, console, settle):
        for n, request in enumerate(requests):
            request.folder.mkdir()
            leave(request.cfg, request.folder, request.overrides)
            settle(n, Ending(0.0, None))

    def run(*lines):
        codes = [command(*line.split())[0] for line in lines]
        left = sorted(str(path.parent) for path in Path().rglob("left"))
        return codes, [name.replace("2030-01-02/03-04-05", "NOW") for name in left]

    class Clock:
        now = staticmethod(lambda: NOW)

    monkeypatch.setattr(hydra.core.utils, "datetime", Clock)
    monkeypatch.setattr(cli, "run_alone", leave)
    monkeypatch.setattr(worker, "run_together", leave_all)
    return run


def test_runs_of_the_same_second_have_folders_of_their_own(same_second):
    codes, left = same_second("seed=1", "seed=2", "seed=3")
    assert codes == [0, 0, 0]
    assert left == ["outputs/NOW", "outputs/NOW_1", "outputs/NOW_2"]


def test_sweeps_of_the_same_second_too_and_their_jobs_are_in_them(same_second):
    codes, left = same_second("-m seed=1,2", "-m seed=3,4")
    assert codes == [0, 0]
    first = ["multirun/NOW/0_seed=1", "multirun/NOW/1_seed=2"]
    assert left == [*first, "multirun/NOW_1/0_seed=3", "multirun/NOW_1/1_seed=4"]
    assert list(Path.cwd().glob("multirun/*/*_1/sweep.json"))


def test_a_folder_that_somebody_has_named_is_taken(same_second):
    codes, left = same_second("hydra.run.dir=mine", "hydra.run.dir=mine")
    assert (codes, left) == ([0, 0], ["mine"])


@pytest.mark.parametrize("line", ["--cfg hydra --resolve", "-m tracker.foo=1"])
def test_what_starts_no_run_leaves_no_folder(same_second, line):
    same_second(line)
    assert list(Path.cwd().iterdir()) == []


def test_several_processes_never_make_the_same_folder(tmp_path):
    made = [make_new(tmp_path / "a" / "b") for _ in range(3)]
    assert [path.name for path in made] == ["b", "b_1", "b_2"]
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        make_new(tmp_path / "file" / "below")


@given(st.text(max_size=300))
def test_a_folder_name_fits_and_is_whole(overrides):
    name = as_folder_name(overrides)
    assert len(name.encode()) <= 150
    assert overrides.replace("/", "_").startswith(name)


def test_a_chinese_name_is_cut_between_letters():
    assert as_folder_name("data.path=" + "文" * 100) == "data.path=" + "文" * 46
