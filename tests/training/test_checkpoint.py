"""Checkpoints: exact, complete or absent, and suspicious of damage."""

import errno
import logging
import os

import pytest
import torch

from temporal_sae.training import Checkpoints

STATE = {
    "step": 7,
    "seconds": 1.5,
    "none": None,
    "list": [1, 2],
    "empty": {},
    "nested": {"tensor": torch.arange(5), "deep": {"bits": torch.tensor([True, False])}},
    "weights": torch.randn(3, 4).to(torch.bfloat16),
}


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return a == b


def test_round_trip(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(7, STATE)
    assert equal(checkpoints.load_newest(), STATE)


def test_views_and_shared_memory_are_saved_whole(tmp_path):
    base = torch.arange(12).view(3, 4)
    Checkpoints(tmp_path).save(1, {"a": base[1:], "b": base.T, "c": base})
    loaded = Checkpoints(tmp_path).load_newest()
    assert torch.equal(loaded["a"], base[1:])
    assert torch.equal(loaded["b"], base.T)


def test_keeps_the_newest_two(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (5, 10, 15):
        checkpoints.save(step, {"step": step})
    assert [p.name[:14] for p in checkpoints.files()] == ["step_000000015", "step_000000010"]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_damage_falls_back_to_the_older_one_and_says_so(tmp_path, damage, caplog):
    checkpoints = Checkpoints(tmp_path)
    for step in (5, 10):
        checkpoints.save(step, {**STATE, "step": step})
    newest = checkpoints.files()[0]
    data = bytearray(newest.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
    newest.write_bytes({"truncate": data[:-20], "flip": data, "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        assert checkpoints.load_newest()["step"] == 5
    assert f"{newest.name} is damaged" in caplog.text
    assert not newest.exists()  # or it would push out a good one later


@pytest.mark.parametrize("call", ["fdopen", "fsync", "replace"])
def test_a_disk_that_is_full_in_the_middle_of_it_leaves_the_last_one(tmp_path, monkeypatch, call):
    """And nothing unfinished, which would keep the disk full."""
    checkpoints = Checkpoints(tmp_path)
    for step in (5, 10):
        checkpoints.save(step, {**STATE, "step": step})
    before = sorted(tmp_path.iterdir())

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(OSError, match="No space left"):
            checkpoints.save(15, {**STATE, "step": 15})
    assert sorted(tmp_path.iterdir()) == before
    assert equal(checkpoints.load_newest(), {**STATE, "step": 10})
    checkpoints.save(15, {**STATE, "step": 15})
    assert checkpoints.load_newest()["step"] == 15


def test_nothing_to_load(tmp_path):
    assert Checkpoints(tmp_path / "none").load_newest() is None
    (tmp_path / ".step_000000005.abc.tmp").write_text("unfinished")
    assert Checkpoints(tmp_path).load_newest() is None
