"""Checkpoints: exact, complete or absent, and suspicious of damage."""

import errno
import hashlib
import logging
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from temporal_sae.files import TEMPORARY, remove_temporaries
from temporal_sae.training import Checkpoints
from temporal_sae.training.state_file import DTYPES

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


def test_a_file_is_what_safetensors_makes_of_the_same_tensors(tmp_path):
    """Names in any order, all kinds of numbers, none of them, one, and letters of any kind."""
    base = torch.arange(12.0).view(3, 4)
    tensors = {"z": base.T, "a": base[1:], "empty": torch.empty(0, 3), "one": torch.tensor(1.5)}
    tensors |= {str(dtype): torch.arange(5).to(dtype) for dtype in DTYPES}
    path = Checkpoints(tmp_path).save(1, {**tensors, "text": 'ü "\n\x01'})
    whole = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    content = save(whole, {"state": r'{"text": "\u00fc \"\n\u0001"}'})
    assert path.read_bytes() == content
    assert path.name == f"step_000000001.{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == set(whole)
        assert all(torch.equal(file.get_tensor(name), whole[name]) for name in whole)
    again = Checkpoints(tmp_path).save(1, {"text": 'ü "\n\x01', **dict(sorted(tensors.items()))})
    assert again == path


def peak_of_memory(work):
    """Bytes by which the process was larger, at the most, while it did something."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    status = Path("/proc/self/status")
    before = int(re.search(r"VmRSS:\s*(\d+)", status.read_text())[1])
    work()
    return 1024 * (int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1]) - before)


def test_a_large_state_is_written_beside_next_to_no_memory(tmp_path):
    large = torch.randn(2**12, 2**13)  # 128 MiB
    state = {"as it is": large, "across": large.T, "flat": large.view(-1)}
    Checkpoints(tmp_path).save(0, {"small": large[:2].T})  # what is loaded at the first time
    assert peak_of_memory(lambda: Checkpoints(tmp_path).save(1, state)) < 32 * 2**20
    assert equal(Checkpoints(tmp_path).load_newest(), state)


def in_a_process(work):
    """Let a process of its own do something; returns what it has ended by."""
    process = os.fork()
    if not process:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def test_a_kill_in_the_middle_of_it_leaves_the_last_one(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, {**STATE, "step": 5})
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda number: os.kill(os.getpid(), signal.SIGKILL))
        assert in_a_process(lambda: checkpoints.save(10, STATE)) == -signal.SIGKILL
    assert len([*tmp_path.glob(f"{TEMPORARY}*")]) == 1
    assert equal(checkpoints.load_newest(), {**STATE, "step": 5})
    remove_temporaries(tmp_path)
    assert len([*tmp_path.iterdir()]) == 1


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
