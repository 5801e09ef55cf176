"""Which places there are for workers."""

import sys

import pytest

from temporal_sae.errors import InvalidOption
from temporal_sae.machine import Free
from temporal_sae.sweep import slots as slots_module
from temporal_sae.sweep.slots import (
    Slot,
    find_slots,
    thread_environment,
    worker_environment,
)


@pytest.fixture
def machine(monkeypatch):
    """A machine with 8 cores, 64 GiB and GPUs 4, 5 and a part of one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,MIG-1")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(slots_module, "cores", lambda: 8)
    monkeypatch.setattr(slots_module, "free_on_host", lambda: Free(64 * 2**30))
    return monkeypatch


def devices(slots):
    return [slot.device for slot in slots]


def test_every_visible_gpu_is_a_slot(machine):
    assert devices(find_slots("auto", None, 8, 1)) == ["4", "5", "MIG-1"]
    assert devices(find_slots([0, 2], None, 8, 1)) == ["4", "MIG-1"]
    assert devices(find_slots("cpu", 2, 8, 1)) == [None, None]


@pytest.mark.parametrize("chosen", [[3], [0, 0], [-1], [], ["a"], "cuda", "0"])
def test_devices_that_are_not_there(machine, chosen):
    with pytest.raises(InvalidOption, match=r"devices=.*3 are visible"):
        find_slots(chosen, None, 8, 1)


def test_workers_are_limited_by_jobs_cores_and_memory(machine):
    machine.setenv("CUDA_VISIBLE_DEVICES", "")

    def workers(jobs, processes=1):
        return len(find_slots("auto", None, jobs, processes)) // processes

    assert (workers(3), workers(20), workers(20, 3)) == (3, 8, 2)
    machine.setattr(slots_module, "free_on_host", lambda: Free(5 * slots_module.MEMORY_OF_A_WORKER))
    assert (workers(20), workers(20, 2), workers(20, 16)) == (5, 2, 1)
    machine.setattr(slots_module, "free_on_host", lambda: None)
    assert workers(20) == 8
    assert len(find_slots("auto", 11, 20, 1)) == 11


@pytest.mark.parametrize(
    ("workers", "processes", "message"),
    [
        (0, 1, "^workers=0: must be"),
        (1.5, 1, "^workers=1.5: must be"),
        ("two", 1, "^workers='two': must be"),
        (None, 0, "^processes_per_job=0: must be"),
        (None, 4, "^processes_per_job=4: must be at most the number of devices, 3"),
        (10**9, 1, "^workers=1000000000: must be at most 1024; there are 8 cores"),
        (1, 10**9, "^processes_per_job=1000000000: must be at most 1024; there are 8 cores"),
    ],
)
def test_numbers_that_make_no_sense(machine, workers, processes, message):
    with pytest.raises(InvalidOption, match=message):
        find_slots("auto", workers, 8, processes)


def test_the_cores_are_shared(machine):
    def threads(*arguments):
        return int(thread_environment(*arguments)["OMP_NUM_THREADS"])

    assert (threads(2, None), threads(3, None), threads(20, None), threads(2, 7)) == (4, 2, 1, 7)
    machine.setenv("OMP_NUM_THREADS", "3")
    assert (threads(2, None), threads(4, None), threads(2, 7)) == (3, 2, 7)
    with pytest.raises(InvalidOption, match="threads=0"):
        thread_environment(2, 0)


def test_what_a_process_of_a_worker_is_told(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID"):  # of a larger run
        monkeypatch.setenv(name, "7")
    monkeypatch.setattr(sys, "path", ["", "/modules", "/more"])
    alone = worker_environment([Slot(1, "5")], 0, None)
    assert alone["CUDA_VISIBLE_DEVICES"] == "5"
    assert alone["PYTHONPATH"] == "/modules:/more"
    assert not {"RANK", "WORLD_SIZE", "SLURM_PROCID"} & alone.keys()
    assert worker_environment([Slot(0)], 0, None)["CUDA_VISIBLE_DEVICES"] == ""
    second = worker_environment([Slot(0, "4"), Slot(1, "5")], 1, 2000)
    told = {
        "CUDA_VISIBLE_DEVICES": "4,5",
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "2000",
    }
    assert told.items() <= second.items()
