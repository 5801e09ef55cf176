"""Who may use a folder, and what is deleted from it."""

import errno
import fcntl
import os
import socket
import subprocess
from pathlib import Path

import pytest

from temporal_sae.errors import RunError
from temporal_sae.experiment.folder import RunFolder
from temporal_sae.sweep.plan import SweepFolder
from temporal_sae.sweep.status import is_held

CONFIG = {"seed": 1, "overwrite": False, "sae": {"k": 4}, "trainer": {"lr": 1, "resume": "auto"}}


def leave(folder, status, config=CONFIG):
    run = RunFolder(folder)
    run.claim(config, overwrite=False)
    run.write({"status": status, "config": config})
    (folder / "metrics.jsonl").write_text("{}")
    (folder / "my_notes.txt").write_text("keep")
    run.release()


def test_a_finished_folder_is_refused_and_can_be_overwritten(tmp_path):
    leave(tmp_path, "finished")
    with pytest.raises(RunError, match=r"finished run.*overwrite=true"):
        RunFolder(tmp_path).claim(CONFIG, overwrite=False)
    overwrites = RunFolder(tmp_path)
    overwrites.claim(CONFIG, overwrite=True)
    assert (tmp_path / "metrics.jsonl").exists()  # until all options are known to be right
    overwrites.make_ready()
    assert not (tmp_path / "metrics.jsonl").exists()
    assert (tmp_path / "my_notes.txt").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_unfinished_run_is_continued(tmp_path, overwrite):
    leave(tmp_path, "running")
    harmless = {**CONFIG, "overwrite": overwrite, "trainer": {"lr": 1, "resume": "never"}}
    goes_on = RunFolder(tmp_path)
    assert goes_on.claim(harmless, overwrite) == {"status": "running", "config": CONFIG}
    goes_on.make_ready()
    assert (tmp_path / "metrics.jsonl").exists()


def test_the_atlas_of_a_run_is_no_atlas_of_a_longer_one(tmp_path):
    def config(n_tokens):
        return {**CONFIG, "trainer": {**CONFIG["trainer"], "num_tokens": n_tokens}}

    for n, before, now in ((0, 100, 200), (1, 200, 300)):
        leave(tmp_path, "finished", config(before))
        for name in ("atlas", "report"):
            (tmp_path / name).mkdir()
            (tmp_path / name / str(n)).write_text("")
        longer = RunFolder(tmp_path)
        longer.claim(config(now), overwrite=False)
        longer.make_ready()
        longer.write({"status": "running", "config": config(now)})
        longer.release()
    for name in ("atlas", "report"):
        assert not (tmp_path / name).exists()
        assert (tmp_path / f"{name}.earlier" / "0").exists()
        assert (tmp_path / f"{name}.earlier-2" / "1").exists()


def test_another_config_is_refused_by_name(tmp_path):
    leave(tmp_path, "stopped")
    other = {**CONFIG, "sae": {"k": 5}}
    with pytest.raises(RunError, match=r"sae\.k: 4 → 5"):
        RunFolder(tmp_path).claim(other, overwrite=False)
    overwrites = RunFolder(tmp_path)
    assert overwrites.claim(other, overwrite=True) is None
    overwrites.make_ready()
    assert not (tmp_path / "metrics.jsonl").exists()


def test_one_process_at_a_time(tmp_path):
    first = RunFolder(tmp_path)
    first.claim(CONFIG, overwrite=False)
    with pytest.raises(RunError, match="another process"):
        RunFolder(tmp_path).claim(CONFIG, overwrite=False)
    first.release()
    RunFolder(tmp_path).claim(CONFIG, overwrite=False)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below", "/proc/nothing"):
        with pytest.raises(RunError, match=r"hydra\.run\.dir="):
            RunFolder(path).claim(CONFIG, overwrite=False)


def test_what_killed_writers_left_is_removed(tmp_path):
    leave(tmp_path, "running")
    (tmp_path / "checkpoints").mkdir()
    left = [tmp_path / ".unfinished-1", tmp_path / "checkpoints" / ".unfinished-2"]
    for path in left:
        path.write_text("half")
    goes_on = RunFolder(tmp_path)
    goes_on.claim(CONFIG, overwrite=False)
    goes_on.make_ready()
    assert not any(path.exists() for path in left)


def test_a_linked_folder_is_overwritten_by_removing_the_link(tmp_path):
    folder, elsewhere = tmp_path / "run", tmp_path / "scratch"
    leave(folder, "finished")
    elsewhere.mkdir()
    (elsewhere / "mine.txt").write_text("keep")
    for name in ("checkpoints", "sae"):
        (folder / name).symlink_to(elsewhere, target_is_directory=True)
    run = RunFolder(folder)
    run.claim(CONFIG, overwrite=True)
    run.make_ready()
    assert {p.name for p in folder.iterdir()} == {".lock", "my_notes.txt"}
    assert [p.name for p in elsewhere.iterdir()] == ["mine.txt"]


def test_a_run_that_cannot_be_removed_whole_stays_whole(tmp_path, monkeypatch):
    """As where checkpoints/ is a mounted disk."""
    leave(tmp_path, "finished")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "sae").mkdir()
    before = sorted(tmp_path.rglob("*"))
    rename = os.rename

    def is_mounted(source, target):
        if Path(source).name == "sae":
            raise OSError(errno.EBUSY, "Device or resource busy", str(source))
        rename(source, target)

    run = RunFolder(tmp_path)
    run.claim(CONFIG, overwrite=True)
    monkeypatch.setattr(os, "rename", is_mounted)
    with pytest.raises(RunError, match=r"sae: cannot be removed \(Device or resource busy\)"):
        run.make_ready()
    run.release()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture(params=[errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def no_locks(monkeypatch, request):
    """A file system that has none."""

    def refuse(descriptor, operation):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_marker_keeps_others_out(tmp_path):
    first, folder = RunFolder(tmp_path), tmp_path
    first.claim(CONFIG, overwrite=False)
    assert is_held(folder)
    with pytest.raises(RunError, match=r"another process.*if it has ended, remove .*\.lock\.pid"):
        RunFolder(folder).claim(CONFIG, overwrite=False)
    assert is_held(folder)
    first.release()
    assert list(folder.iterdir()) == []
    assert not is_held(folder)
    with SweepFolder(folder).held(), pytest.raises(RunError, match="another sweep"):
        SweepFolder(folder).held().__enter__()


@pytest.mark.usefixtures("no_locks")
def test_the_marker_of_a_process_that_was_killed_is_no_obstacle(tmp_path):
    (tmp_path / ".lock").touch()
    killed = subprocess.Popen(["true"])
    killed.wait()
    (tmp_path / ".lock.pid").write_text(f"{killed.pid}\n{socket.gethostname()}\n")
    assert not is_held(tmp_path)
    (tmp_path / ".lock.pid").write_text(f"{killed.pid}\n{socket.gethostname()}\n")
    run = RunFolder(tmp_path)
    run.claim(CONFIG, overwrite=False)
    assert is_held(tmp_path)
    run.release()


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_without_a_record_are_neither_continued_nor_deleted(tmp_path, overwrite):
    leave(tmp_path, "stopped")
    (tmp_path / "run.json").unlink()
    with pytest.raises(RunError, match=r"holds metrics\.jsonl but no run\.json"):
        RunFolder(tmp_path).claim(CONFIG, overwrite)
    assert (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("content", ["{", "{}"])
def test_a_broken_record_is_one_clear_line(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunError, match=r"run\.json: cannot be read"):
        RunFolder(tmp_path).claim(CONFIG, overwrite=True)
