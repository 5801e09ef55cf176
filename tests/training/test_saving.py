"""When a training is saved, and that training may go on meanwhile."""

import errno
import logging
import threading
import time
from functools import partial
from itertools import pairwise

import pytest
import torch

from temporal_sae.machine import MIB, Free
from temporal_sae.training import (
    Checkpoints,
    Lane,
    SharedStream,
    Stopped,
    Trainer,
    saving,
    train_together,
    trainer,
)
from temporal_sae.training.saving import Saving
from temporal_sae.training.state_file import StateFile, from_file
from tests.test_cli import small
from tests.training.test_checkpoint import STATE, equal
from tests.training.test_together import Counted, lanes_of, parts_of, without_times
from tests.training.test_trainer import (
    B,
    Synthetic,
    make_parts,
    make_trainer,
    metrics_of,
    same,
    weights,
)

WRITE = StateFile.write


@pytest.fixture
def all_in_background(monkeypatch):
    monkeypatch.setattr(saving, "SMALL", 0)


@pytest.fixture
def writes(monkeypatch):
    """Names of the threads that have written, with the beginning and the end of each write."""
    written = []

    def noted(self, file):
        begin = time.monotonic()
        digest = WRITE(self, file)
        written.append((threading.current_thread().name, begin, time.monotonic()))
        return digest

    monkeypatch.setattr(StateFile, "write", noted)
    return written


def slowed(monkeypatch, until=lambda: time.sleep(0.2)):
    """Let writes in a thread take a while."""

    def slow(self, file):
        if threading.current_thread() is not threading.main_thread():
            until()
        return WRITE(self, file)

    monkeypatch.setattr(StateFile, "write", slow)


def without_space(monkeypatch, in_thread=True):
    def full(self, file):
        if (threading.current_thread() is not threading.main_thread()) == in_thread:
            raise OSError(errno.ENOSPC, "No space left on device")
        return WRITE(self, file)

    monkeypatch.setattr(StateFile, "write", full)


def steps_of(parts):
    return [int(path.name[5:14]) for path in parts.checkpoints.files()]


class Waited(Synthetic):
    """Lets the writes go on when a batch is read."""

    def __init__(self, at):
        super().__init__()
        self.at, self.reached = at, threading.Event()

    def __next__(self):
        if self.n == self.at:
            self.reached.set()
        return super().__next__()


def test_a_checkpoint_is_of_its_step_though_training_goes_on(
    tmp_path, monkeypatch, all_in_background
):
    plain = make_parts(tmp_path / "plain")
    with monkeypatch.context() as patched:
        patched.setattr(saving, "SMALL", 10**9)
        make_trainer(steps=20, checkpoint_every=15).fit(plain)
    batches = Waited(at=18)
    slowed(monkeypatch, lambda: batches.reached.wait(30))
    beside = make_parts(tmp_path / "beside", batches=batches)
    make_trainer(steps=20, checkpoint_every=15).fit(beside)
    assert steps_of(plain) == steps_of(beside) == [20, 15]
    for ours, theirs in zip(plain.checkpoints.files(), beside.checkpoints.files(), strict=True):
        assert equal(without_times(from_file(ours)), without_times(from_file(theirs)))
    assert same(weights(plain), weights(beside))


def test_a_run_is_stopped_and_continued_to_the_bit(tmp_path, all_in_background, writes):
    whole = make_parts(tmp_path / "whole")
    make_trainer().fit(whole)
    folder = tmp_path / "stopped"
    with pytest.raises(Stopped):
        make_trainer().fit(make_parts(folder, batches=Synthetic(stop_at=24)))
    assert steps_of(make_parts(folder)) == [24, 21]
    newest = make_parts(folder).checkpoints.files()[0]
    newest.unlink()  # as after a kill: that of step 21 was written beside training
    continued = make_parts(folder)
    make_trainer().fit(continued)
    assert same(weights(whole), weights(continued))
    assert metrics_of(folder) == metrics_of(tmp_path / "whole")
    names = [name for name, _, _ in writes]
    # steps 7, 14, 21, 28 beside training and the last; 7, 14, 21 and the stop; 28 and the last
    beside = "background"
    assert names == [*[beside] * 4, "MainThread", *[beside] * 3, "MainThread", beside, "MainThread"]


def test_at_most_one_is_written_at_a_time(tmp_path, monkeypatch, all_in_background, writes):
    noted = StateFile.write
    monkeypatch.setattr(
        StateFile, "write", lambda self, file: (time.sleep(0.05), noted(self, file))[1]
    )
    parts = make_parts(tmp_path)
    make_trainer(steps=8, checkpoint_every=1, warmup_steps=1).fit(parts)
    assert [name for name, _, _ in writes] == [*["background"] * 7, "MainThread"]
    assert all(end <= begin for (_, _, end), (_, begin, _) in pairwise(writes))
    assert steps_of(parts) == [8, 7]


@pytest.mark.parametrize("ending", [KeyboardInterrupt, ValueError, "signal"])
def test_whatever_ends_training_a_checkpoint_is_whole_then(
    tmp_path, monkeypatch, all_in_background, ending
):
    class Ending(Synthetic):
        def __next__(self):
            if self.n == 9 and ending != "signal":
                raise ending
            return super().__next__()

    slowed(monkeypatch)
    batches = Ending(stop_at=10 if ending == "signal" else None)
    parts = make_parts(tmp_path, batches=batches)
    with pytest.raises(Stopped if ending == "signal" else ending):
        make_trainer().fit(parts)
    names = sorted(path.name[:14] for path in (tmp_path / "checkpoints").iterdir())
    stopped = ["step_000000010"] if ending == "signal" else []
    assert names == ["step_000000007", *stopped]
    assert parts.checkpoints.load_newest()["step"] == (10 if stopped else 7)


def test_an_error_shows_at_the_next_checkpoint(tmp_path, monkeypatch, all_in_background):
    without_space(monkeypatch)
    parts = make_parts(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        make_trainer().fit(parts)
    assert parts.stream.n == 14
    assert list(parts.checkpoints.folder.iterdir()) == []


def test_an_error_shows_when_a_signal_has_come(tmp_path, monkeypatch, all_in_background):
    """Or somebody would rely on a checkpoint that is not there."""
    without_space(monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        make_trainer(checkpoint_every=9).fit(make_parts(tmp_path, batches=Synthetic(stop_at=9)))


def test_an_error_beside_another_one_is_logged(tmp_path, monkeypatch, all_in_background, caplog):
    class Broken(Synthetic):
        def __next__(self):
            if self.n == 9:
                raise ValueError("something else")
            return super().__next__()

    without_space(monkeypatch)
    with pytest.raises(ValueError, match="something else"):
        make_trainer().fit(make_parts(tmp_path, batches=Broken()))
    assert "a checkpoint could not be written (OSError: [Errno 28] No space left" in caplog.text


def test_an_error_is_one_line_of_the_command(command, random_gemma, monkeypatch, all_in_background):
    options = [*small(random_gemma), "trainer.checkpoint_every=4", "hydra.run.dir=full"]
    with monkeypatch.context() as patched:
        without_space(patched)
        code, _, err = command(*options)
    assert code == 2
    assert err.startswith("error: full: the disk is full")
    assert err.count("\n") == 1
    assert command(*options)[0] == 0


@pytest.mark.parametrize(
    "look", [Checkpoints.files, Checkpoints.load_newest, Checkpoints.newest_whole]
)
def test_whoever_looks_at_the_folder_waits(tmp_path, monkeypatch, look):
    slowed(monkeypatch)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.save_in_background(7, STATE)
    assert look(checkpoints)
    without_space(monkeypatch)
    checkpoints.save_in_background(8, STATE)
    with pytest.raises(OSError, match="No space left"):
        look(checkpoints)
    assert look(checkpoints)  # it has been told


def test_a_message_names_the_checkpoint_that_was_being_written(tmp_path, monkeypatch):
    slowed(monkeypatch)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_in_background(7, STATE)
    assert "the last good checkpoint is step_000000007." in checkpoints.newest_in_words()


def test_a_copy_is_what_the_state_was(tmp_path, monkeypatch):
    changed = threading.Event()
    slowed(monkeypatch, lambda: changed.wait(30))
    base, numbers = torch.arange(12.0).view(3, 4), [1, 2]
    state = {"a": base, "b": base.T, "c": base[1:], "numbers": numbers}
    Checkpoints(tmp_path / "plain").save(1, state)
    checkpoints = Checkpoints(tmp_path / "beside")
    checkpoints.save_in_background(1, state)
    base.zero_()
    numbers.append(3)
    changed.set()
    (plain,), (beside,) = Checkpoints(tmp_path / "plain").files(), checkpoints.files()
    assert plain.name == beside.name


def test_of_many_one_is_copied_at_a_time(tmp_path, monkeypatch, all_in_background, writes):
    noted, end_of_patience = StateFile.write, time.monotonic() + 30

    def together(self, file):
        beside = threading.current_thread() is not threading.main_thread()
        while beside and len(writes) < 2 and time.monotonic() < end_of_patience:
            time.sleep(0.01)  # the others come meanwhile
        return noted(self, file)

    monkeypatch.setattr(StateFile, "write", together)
    kinds = ("topk", "other", "ordered")
    lanes = lanes_of(tmp_path, kinds, Counted(), checkpoint_every=20)
    train_together(lanes)
    assert [lane.error for lane in lanes] == [None] * 3
    assert [name for name, _, _ in writes[:3]] == ["MainThread", "MainThread", "background"]
    assert all(steps_of(lane.parts) == [30, 20] for lane in lanes)


def test_one_that_fails_among_many_has_its_checkpoint_when_that_is_told(
    tmp_path, monkeypatch, all_in_background
):
    slowed(monkeypatch)
    there = []

    def failed(error):
        there.extend((tmp_path / "topk/checkpoints").iterdir())

    shared = SharedStream(Counted())
    lanes = [
        Lane(make_trainer(), parts_of(tmp_path / kind, kind, view), view, when_failed=failed)
        for kind, view in (("topk", shared.view()), ("other", shared.view()))
    ]
    lanes[0].parts.logger.log = lambda step, metrics: 1 // (step < 10)
    other = lanes[1]
    train_together(lanes)
    assert isinstance(lanes[0].error, ZeroDivisionError)
    assert [path.name[:14] for path in there] == ["step_000000007"]
    assert steps_of(other.parts) == [30, 28]


def test_it_is_told_once_how(tmp_path, monkeypatch, caplog, all_in_background, writes):
    caplog.set_level(logging.INFO)
    make_trainer().fit(make_parts(tmp_path / "beside"))
    assert caplog.text.count("while a checkpoint of 0 MiB is written training goes on") == 1
    monkeypatch.setattr(saving, "free_memory", lambda device: Free(1000))
    writes.clear()
    make_trainer().fit(make_parts(tmp_path / "at once"))
    assert {name for name, _, _ in writes} == {"MainThread"}
    waits = "while a checkpoint of 0 MiB is written training waits for it: beside it takes"
    assert caplog.text.count(f"{waits} 0 MiB of memory, and 0 are free") == 1
    monkeypatch.setattr(saving, "free_memory", lambda device: None)
    make_trainer().fit(make_parts(tmp_path / "another system"))
    assert caplog.text.count("and an unknown number are free") == 1


@pytest.mark.parametrize(("copies", "where"), [(1.9, "MainThread"), (2.1, "background"), (0, "")])
def test_memory_must_have_room_for_two_copies(tmp_path, monkeypatch, writes, copies, where):
    """Small states are written at once in any case."""
    limit = 2**20
    monkeypatch.setattr(saving, "SMALL", limit)
    n_bytes = limit if copies else limit - 4
    monkeypatch.setattr(saving, "snapshot", lambda parts, run: {"x": torch.zeros(n_bytes // 4)})
    monkeypatch.setattr(saving, "free_memory", lambda device: Free(int(copies * limit)))
    make_trainer(steps=8).fit(make_parts(tmp_path))
    assert writes[0][0] == (where or "MainThread")


def test_by_default_what_is_written_in_no_time_is_written_at_once(tmp_path, writes, caplog):
    caplog.set_level(logging.INFO)
    make_trainer().fit(make_parts(tmp_path))
    assert {name for name, _, _ in writes} == {"MainThread"}
    assert "while a checkpoint" not in caplog.text
    assert saving.SMALL == 64 * MIB


class Clock(Synthetic):
    """A minute passes with every batch."""

    minutes = 0.0

    def __next__(self):
        self.minutes += 1
        return super().__next__()

    def seconds(self):
        return 60 * self.minutes


def saved_by_time(folder, monkeypatch, **options):
    """The steps of all checkpoints of a run whose batches take a minute."""
    steps, save = [], Checkpoints.save

    def noted(self, step, state):
        steps.append(step)
        return save(self, step, state)

    batches = Clock()
    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", noted)
        patched.setattr(trainer, "Saving", partial(Saving, clock=batches.seconds))
        parts = make_parts(folder, batches=batches)
        make_trainer(steps=20, **{"log_every": 2, "checkpoint_every": 1000, **options}).fit(parts)
    return steps, parts


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"checkpoint_minutes": None}, [20]),
        ({"checkpoint_minutes": 2.5}, [4, 8, 12, 16, 20]),
        ({"checkpoint_minutes": 2.5, "log_every": 3}, [3, 6, 9, 12, 15, 18, 20]),
        ({"checkpoint_minutes": 2.5, "checkpoint_every": 6}, [4, 6, 10, 12, 16, 18, 20]),
        ({}, [10, 20]),  # ten minutes
    ],
)
def test_minutes_since_the_last_one_at_logged_steps(tmp_path, monkeypatch, options, steps):
    saved, parts = saved_by_time(tmp_path, monkeypatch, **options)
    assert saved == steps
    plain = make_parts(tmp_path / "plain")
    make_trainer(steps=20).fit(plain)
    assert same(weights(plain), weights(parts))


def test_what_was_saved_by_time_is_continued_to_the_bit(tmp_path, monkeypatch):
    _, whole = saved_by_time(tmp_path, monkeypatch, checkpoint_minutes=2.5)
    whole.checkpoints.files()[0].unlink()
    continued = make_parts(tmp_path)
    assert steps_of(continued) == [16]
    assert make_trainer(steps=20, log_every=2).fit(continued).step == 20
    assert same(weights(whole), weights(continued))


def test_minutes_are_a_number():
    assert Trainer(B).checkpoint_minutes == 10
    assert Trainer(B, checkpoint_minutes=None).checkpoint_minutes is None
