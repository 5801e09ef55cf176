"""Which places there are for jobs, and who gets them."""

import os
import signal
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.machine import Free
from temporal_sae.sweep import pool as pool_module
from temporal_sae.sweep import slots as slots_module
from temporal_sae.sweep.host import HostLost
from temporal_sae.sweep.messages import Ended, Outcome, Started
from temporal_sae.sweep.pool import Pool
from temporal_sae.sweep.slots import (
    Slot,
    Slots,
    find_slots,
    job_environment,
    thread_environment,
    visible_gpus,
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


@pytest.mark.parametrize(
    ("listed", "seen"),
    [("", []), ("-1", []), ("2", ["2"]), ("1, 0", ["1", "0"]), ("3,-1,2", ["3"])],
)
def test_gpus_are_read_as_cuda_reads_them(machine, listed, seen):
    machine.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert visible_gpus() == seen


def test_without_a_driver_there_are_no_gpus(machine):
    machine.delenv("CUDA_VISIBLE_DEVICES")
    machine.setattr(slots_module, "has_driver", lambda: False)
    assert visible_gpus() == []


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
    ("workers", "processes"), [(0, 1), (1.5, 1), ("two", 1), (None, 0), (None, 4)]
)
def test_numbers_that_make_no_sense(machine, workers, processes):
    with pytest.raises(InvalidOption, match=r"(workers|processes_per_job)="):
        find_slots("auto", workers, 8, processes)


def test_the_cores_are_shared(machine):
    def threads(*arguments):
        return int(thread_environment(*arguments)["OMP_NUM_THREADS"])

    assert (threads(2, None), threads(3, None), threads(20, None), threads(2, 7)) == (4, 2, 1, 7)
    machine.setenv("OMP_NUM_THREADS", "3")
    assert (threads(2, None), threads(4, None), threads(2, 7)) == (3, 2, 7)
    with pytest.raises(InvalidOption, match="threads=0"):
        thread_environment(2, 0)


def test_what_a_process_of_a_job_is_told():
    alone = job_environment([Slot(1, "5")], 0, None)
    assert alone["CUDA_VISIBLE_DEVICES"] == "5"
    assert alone["RANK"] is alone["WORLD_SIZE"] is alone["SLURM_PROCID"] is None
    assert job_environment([Slot(0)], 0, None)["CUDA_VISIBLE_DEVICES"] == ""
    second = job_environment([Slot(0, "4"), Slot(1, "5")], 1, 2000)
    told = {k: v for k, v in second.items() if v is not None}
    assert told == {
        "CUDA_VISIBLE_DEVICES": "4,5",
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "2000",
    }


def test_a_slot_is_given_back_once():
    slots = Slots([Slot(0), Slot(1)])
    first, second = slots.take(1), slots.take(1)
    assert first != second
    assert slots.take(1) is None
    slots.give_back(second)
    with pytest.raises(ValueError, match="not taken"):
        slots.give_back(second)
    assert slots.take(2) is None
    slots.give_back(first)
    assert slots.take(2) == (Slot(0), Slot(1))


class FakeHost:
    """Ends one of the processes that run at every look, and checks who runs beside whom.

    Args:
        chooses: gives the next process to end, of how many run, and how it ends.
        dies_after: messages after which it is lost.
    """

    is_ready = True

    def __init__(self, chooses, dies_after=None):
        self.chooses, self.dies_after = chooses, dies_after
        self.live, self.most, self.signals = {}, 0, []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        assert not self.live

    def start(self, message):
        used = message.environment["CUDA_VISIBLE_DEVICES"].split(",")
        others = {d for (job, _), used in self.live.items() if job != message.job for d in used}
        assert not others & set(used), "two jobs on one device"
        self.live[message.job, message.rank] = used
        self.most = max(self.most, len(self.live))

    def signal(self, job, rank, number):
        self.signals.append((job, rank, number))
        yet_to_come = {"ended": self.live.pop((job, rank))}
        assert yet_to_come

    def messages(self, seconds):
        if self.dies_after == 0:
            raise HostLost("killed by SIGKILL")
        if self.dies_after is not None:
            self.dies_after -= 1
        key = list(self.live)[self.chooses(len(self.live))]
        yield Started(*key, pid=1)
        del self.live[key]
        yield Ended(*key, code=-9 if key[0] % 3 == 1 else 0, outcome=OUTCOMES[key[0] % 3])

    def end_lost(self):
        self.live.clear()


OUTCOMES = [Outcome(objective=0.5), None, Outcome(reason="no", refused=True)]
EXPECTED = [OUTCOMES[0], Outcome(reason="killed by SIGKILL"), OUTCOMES[2]]


def run_pool(n_jobs, n_slots, processes, *hosts):
    slots = Slots([Slot(n, f"gpu{n}") for n in range(n_slots)])
    waiting = deque(hosts)
    pool = Pool([["x=1"]] * n_jobs, slots, processes, 0, waiting.popleft, print)
    return pool.run(lambda: None), slots


@given(
    st.integers(1, 12),
    st.integers(1, 5),
    st.integers(1, 3),
    st.lists(st.integers(0, 99), min_size=9),
)
def test_any_order_of_ends(n_jobs, n_slots, processes, order):
    n_slots = max(n_slots, processes)
    choices = deque(order)

    def chooses(n):
        choices.rotate(1)
        return choices[0] % n

    host = FakeHost(chooses)
    outcomes, slots = run_pool(n_jobs, n_slots, processes, host)
    assert outcomes == [EXPECTED[job % 3] for job in range(n_jobs)]
    assert host.most <= n_slots // processes * processes
    assert host.most == processes * min(n_jobs, n_slots // processes)
    assert slots.take(n_slots) == slots.all


def test_a_lost_host_is_replaced():
    first, second = (FakeHost(lambda n: 0, dies_after=end) for end in (1, None))
    outcomes, _ = run_pool(6, 2, 1, first, second)
    lost = Outcome(reason="ended with its parent, which was killed by SIGKILL")
    assert outcomes == [EXPECTED[0], lost, lost, EXPECTED[0], EXPECTED[1], EXPECTED[2]]


def test_a_host_that_never_starts_a_job_ends_the_sweep():
    host = FakeHost(lambda n: 0, dies_after=0)
    host.is_ready = False
    with pytest.raises(RunError, match="no job can start"):
        run_pool(3, 2, 1, host)


def test_what_waits_for_a_failed_process_is_killed(monkeypatch):
    monkeypatch.setattr(pool_module, "SECONDS_ALONE", -1)

    class Host(FakeHost):
        """Rank 1 dies; rank 0 waits for it until it is killed."""

        killed = False

        def signal(self, job, rank, number):
            self.signals.append((job, rank, number))
            self.killed = True

        def messages(self, seconds):
            key = (0, 0) if self.killed else (0, 1)
            if key in self.live:
                del self.live[key]
                yield Ended(*key, code=-9, outcome=None)

    host = Host(lambda n: 0)
    outcomes, slots = run_pool(1, 2, 2, host)
    assert host.signals == [(0, 0, signal.SIGKILL)]
    assert outcomes == [Outcome(reason="killed by SIGKILL")]
    assert slots.take(2) == slots.all


SILENT = Outcome(reason="ended with exit code 2", wordless=True)
REFUSED = Outcome(reason="x=1: must be 2", refused=True)
MISSED = Outcome(reason="another process has ended")


@pytest.mark.parametrize(
    ("in_time", "told"),
    [
        ([SILENT, REFUSED], REFUSED),
        ([REFUSED, SILENT], REFUSED),
        ([REFUSED, MISSED], REFUSED),
        ([None, MISSED], Outcome(reason="killed by SIGKILL")),
        ([SILENT, SILENT], SILENT),
        ([Outcome(objective=2.0), MISSED], MISSED),
        ([Outcome(), Outcome(objective=2.0)], Outcome(objective=2.0)),
    ],
)
def test_the_reason_of_a_job_is_that_of_the_process_that_has_one(in_time, told):
    class Host(FakeHost):
        """Rank 1 ends before rank 0."""

        def messages(self, seconds):
            for rank, outcome in zip((1, 0), in_time, strict=True):
                del self.live[0, rank]
                yield Ended(0, rank, code=1 if outcome else -9, outcome=outcome)

    outcomes, _ = run_pool(1, 2, 2, Host(lambda n: 0))
    assert outcomes == [told]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_what_runs_and_starts_nothing_more(number):
    class Host(FakeHost):
        """Two jobs run; a person stops them, twice since they are slow."""

        def messages(self, seconds):
            if len(self.signals) == 0 or len(self.signals) == 2:
                os.kill(os.getpid(), number)
                return
            for key in list(self.live):
                del self.live[key]
                yield Ended(*key, code=130, outcome=Outcome(reason="stopped"))

        def signal(self, job, rank, number):
            self.signals.append((job, number))

    host = Host(lambda n: 0)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as stopped:
        run_pool(5, 2, 1, host)
    assert getattr(stopped.value, "signal_number", signal.SIGINT) == number
    kill = signal.SIGKILL
    assert host.signals == [(0, signal.SIGINT), (1, signal.SIGINT), (0, kill), (1, kill)]
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("options", [(10**9, 1), (1, 10**9)])
def test_numbers_that_no_machine_could_start_are_refused(options):
    with pytest.raises(InvalidOption, match="must be at most 1024; there are"):
        find_slots("cpu", options[0], 8, options[1])
