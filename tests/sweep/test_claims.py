"""Which worker does which job."""

import json
import math

import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from temporal_sae.errors import RunError
from temporal_sae.sweep import claims as claims_module
from temporal_sae.sweep.claims import Claims, open_again, settle, unclaimed
from temporal_sae.sweep.plan import SweepFolder
from temporal_sae.sweep.states import Outcome, State
from tests.sweep.folders import leave, planned


@pytest.fixture
def sweep(tmp_path):
    return of_streams(tmp_path, "aaaa")


def of_streams(path, streams):
    """A sweep with a job for each letter, which names its stream."""
    return planned(path, [{"stream": stream} for stream in streams])


def worker(sweep, name="w", n_workers=1, check=lambda config: None):
    return Claims(sweep, name, n_workers, lambda config: config["stream"], check)


def numbers(claims):
    return [claim.job.number for claim in claims]


def settle_all(claims, jobs):
    for number in jobs:
        claims.settle(number, Outcome())


def die(claims):
    """End a worker as a kill does it."""
    for lock in claims._mine.values():
        lock.release()
    claims._mine.clear()


def test_one_worker_takes_all_that_shares_a_stream(tmp_path):
    claims = worker(of_streams(tmp_path, "abab"))
    first = claims.take()
    assert numbers(first) == [0, 2]
    assert [claim.config for claim in first] == [{"stream": "a"}] * 2
    assert first[1].job.overrides == ("n=2", "stream=a")
    settle_all(claims, (0, 2))
    assert numbers(claims.take()) == [1, 3]
    assert claims.take() == []


def test_no_job_is_claimed_twice_and_locks_and_files_are_given_back(sweep, monkeypatch):
    monkeypatch.setattr(claims_module, "MOST_AT_ONCE", 3)
    one, other = worker(sweep, "one"), worker(sweep, "other")
    assert numbers(one.take(most=3)) == [0, 1, 2]
    assert unclaimed(sweep, range(4)) == [3]
    assert numbers(other.take()) == [3]
    assert other.take() == []
    other.settle(3, Outcome())
    one.give_back(untried=True)
    assert numbers(other.take()) == [0, 1, 2]
    settle_all(other, range(3))
    assert unclaimed(sweep, range(4)) == []
    assert not list(sweep.work.glob("*.lock"))


@settings(max_examples=30, deadline=None)
@given(st.text("abc", min_size=1, max_size=30), st.integers(1, 8))
def test_every_job_has_one_worker_and_nobody_more_than_a_share(
    tmp_path_factory, streams, n_workers
):
    sweep = of_streams(tmp_path_factory.mktemp("sweep"), streams)
    workers = [worker(sweep, f"w{n}", n_workers) for n in range(n_workers)]
    taken, at_work = [], 0
    for claims in workers:
        share = math.ceil((len(streams) - len(taken)) / (n_workers - at_work))
        mine = claims.take()
        assert len({claim.config["stream"] for claim in mine}) <= 1
        assert len(mine) <= share
        at_work += bool(mine)
        taken += numbers(mine)
    assert len(taken) == len(set(taken))
    if len(set(streams)) == 1:  # then all are at work that can be
        assert sorted(taken) == list(range(len(streams)))
        assert at_work == min(n_workers, len(streams))
    for claims in workers:
        claims.give_back(untried=True)


def test_what_a_dead_worker_had_is_run_alone_after_the_others(sweep):
    first = worker(sweep, "first")
    assert len(first.take(most=2)) == 2
    die(first)
    second = worker(sweep, "second")
    assert [numbers(second.take()) for _ in range(3)] == [[2, 3], [0], [1]]
    assert sweep.states.read(1) == State(2, 0, "second")


def test_a_job_that_ends_its_worker_twice_is_given_up_and_says_where(tmp_path):
    sweep = of_streams(tmp_path, "ab")
    other = worker(sweep, "other")
    for name in ("one", "two"):
        claims = worker(sweep, name)
        assert numbers(claims.take()) == [0]
        assert numbers(other.take()) == ([1] if name == "one" else [])
        leave(sweep.path / "0_x", "running", step=0)
        die(claims)
    (sweep.path / "0_x" / "metrics.jsonl").write_text('{"step": 7}')
    assert worker(sweep, "three").take() == []
    reason = "ended without a word at step 7 (killed, or out of memory?)"
    assert sweep.states.read(0).outcome == Outcome(reason)
    record = json.loads((sweep.path / "0_x/run.json").read_text())
    assert (record["status"], record["reason"]) == ("failed", reason)


def test_one_that_has_got_on_meanwhile_is_not_given_up(tmp_path):
    sweep = of_streams(tmp_path, "a")
    for step in (10, 20, 30, 40):
        claims = worker(sweep, f"at {step}")
        assert numbers(claims.take()) == [0]
        leave(sweep.path / "0_x", "running", step=step)
        die(claims)
    assert sweep.states.read(0).attempts == 1


def test_a_worker_that_ends_while_another_looks_is_not_taken_for_a_dead_one(tmp_path, monkeypatch):
    sweep = of_streams(tmp_path, "a")
    claims = worker(sweep, "one")
    claims.take()

    def ends(lock):
        claims.settle(0, Outcome())
        return False

    monkeypatch.setattr(claims_module, "is_held", ends)
    assert worker(sweep, "two").take() == []


@pytest.mark.parametrize(
    ("left", "outcome"),
    [
        ({"status": "finished"}, Outcome()),
        ({"status": "failed", "reason": "no such text"}, Outcome("no such text")),
    ],
)
def test_what_came_to_its_end_before_its_worker_did_is_not_run_again(sweep, left, outcome):
    claims = worker(sweep, "one")
    claims.take(most=1)
    leave(sweep.path / "0_x", **left)
    die(claims)
    assert numbers(worker(sweep, "two").take()) == [1, 2, 3]
    assert sweep.states.read(0).outcome == outcome


def test_a_finished_run_that_is_to_be_repeated_is_repeated(sweep):
    leave(sweep.path / "0_x", "finished")
    claims = worker(sweep, "one")
    claims.take(most=1)
    die(claims)
    claims = worker(sweep, "two")
    assert [numbers(claims.take()), numbers(claims.take())] == [[1, 2, 3], [0]]


def test_the_next_command_repeats_what_has_failed_and_doubts_nothing(sweep):
    claims = worker(sweep)
    claims.take(most=3)
    claims.settle(0, Outcome("no"))
    die(claims)  # with two jobs
    held = worker(sweep, "alive")
    assert numbers(held.take()) == [3]
    open_again(sweep, range(4))
    assert [sweep.states.read(n).attempts for n in range(4)] == [0, 0, 0, 1]
    assert numbers(worker(sweep, "next").take()) == [0, 1, 2]


def test_what_has_ended_before_a_stop_in_good_order_is_settled_and_the_rest_is_untried(sweep):
    """A cluster starts the worker again, and it must not find a finished run to do."""
    claims = worker(sweep)
    claims.take()
    leave(sweep.path / "0_x", "finished")
    leave(sweep.path / "1_x", "failed", reason="loss is NaN")
    leave(sweep.path / "2_x", "stopped", reason="preempted at step 3: queued again")
    claims.give_back(untried=True)
    states = [sweep.states.read(number) for number in range(4)]
    assert [state.outcome for state in states[:2]] == [Outcome(), Outcome("loss is NaN")]
    assert states[2:] == [State(), State()]
    assert numbers(worker(sweep).take()) == [2, 3]


def test_jobs_that_a_later_command_adds_are_found(sweep):
    claims = worker(sweep)
    claims.take()
    settle_all(claims, range(4))
    planned(sweep.path, [{"stream": "a"}] * 4 + [{"stream": "b"}])
    assert numbers(claims.take()) == [4]


def test_a_config_that_must_not_be_there_is_refused(sweep):
    def check(config):
        raise RunError("a folder may not set it")

    with pytest.raises(RunError, match="may not"):
        worker(sweep, check=check).take()
    assert unclaimed(sweep, range(4)) == [0, 1, 2, 3]


def test_a_state_that_is_damaged_is_that_of_a_job_nobody_has_tried(sweep):
    (sweep.work / "0.json").write_text("{")
    (sweep.work / "1.json").write_text('{"attempts": "many", "step": 0}')
    assert numbers(worker(sweep).take()) == [0, 1, 2, 3]


def test_without_a_folder_there_is_no_work_and_nothing_is_made(tmp_path):
    with pytest.raises(RunError, match="removed while the sweep was going on"):
        worker(SweepFolder(tmp_path / "s")).take()
    assert list(tmp_path.iterdir()) == []


def test_the_reason_is_noted_where_the_run_could_not(sweep):
    def noted():
        settle(sweep, sweep.jobs()[1], Outcome("why"))
        record = json.loads((sweep.path / "1_x/run.json").read_text())
        return record["status"], record.get("reason")

    leave(sweep.path / "1_x", "running")
    with FileLock(sweep.path / "1_x/.lock"):
        assert noted() == ("running", None)
    assert noted() == ("failed", "why")
