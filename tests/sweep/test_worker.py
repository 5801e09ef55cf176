"""A worker: what it believes of a folder, whom it tells what, and how it ends."""

import json
import logging
import os
import signal

import pytest

from temporal_sae.errors import EvaluationFailed, InvalidOption, RunError
from temporal_sae.experiment.together import Ending
from temporal_sae.sweep import worker as worker_module
from temporal_sae.sweep.states import Outcome, State
from temporal_sae.sweep.worker import AGAIN, Worker, main
from temporal_sae.training import Preempted, Stopped
from tests.sweep.folders import leave, planned

CONFIG = {"seed": 1, "debug": False, "trainer": {"batch_size": 4}, "sae": {"k": 3}}
log = logging.getLogger("temporal_sae.training")


@pytest.fixture
def sweep(tmp_path):
    return planned(tmp_path / "s", [CONFIG, CONFIG])


@pytest.fixture
def runs(monkeypatch):
    """Lets a function of (request, about) stand for all that runs do; it returns or raises."""

    def put(act):
        def run_together(requests, about, console, when_over):
            for n, request in enumerate(requests):
                leave(request.folder, "running")
                with about(n):
                    ending = act(request)
                when_over(n, Ending(*ending) if ending else Ending(1.0, None))

        monkeypatch.setattr(worker_module, "run_together", run_together)

    return put


def states(sweep):
    return [sweep.states.read(number) for number in (0, 1)]


def logs(sweep):
    return [(sweep.path / f"{n}_x/log.txt").read_text() for n in (0, 1)]


def test_every_job_has_its_config_and_its_log(sweep, runs):
    seen = []

    def act(request):
        seen.append((request.folder.name, request.overrides, request.cfg.sae.k))
        log.warning("step 1 of %s", request.folder.name)

    runs(act)
    Worker(sweep, place="GPU 3").work()
    assert seen == [("0_x", ("n=0",), 3), ("1_x", ("n=1",), 3)]
    for number, text in enumerate(logs(sweep)):
        lines = text.splitlines()
        assert lines[0].startswith("--- ")
        assert lines[0].endswith(f" · GPU 3 · process {os.getpid()}")
        assert [line for line in lines if line.startswith("step")] == [f"step 1 of {number}_x"]
    assert [state.outcome for state in states(sweep)] == [Outcome()] * 2
    assert not list(sweep.work.glob("*.lock"))
    handlers = logging.getLogger().handlers
    assert not any(isinstance(handler, worker_module.JobLogs) for handler in handlers)


@pytest.mark.parametrize(
    ("error", "outcome", "logged"),
    [
        (RunError("no such text"), Outcome("no such text", True), "0_x: error: no such text"),
        (InvalidOption("k", 0, "1"), Outcome("k=0: must be 1", True), "error: k=0: must be 1"),
        (EvaluationFailed({"core": "no"}), Outcome("eval core: no"), "error: eval core: no"),
        (ValueError("a bug\nof two"), Outcome("ValueError: a bug of two"), "of two"),
    ],
)
def test_why_a_job_has_failed(sweep, runs, error, outcome, logged):
    runs(lambda request: (None, error) if request.folder.name == "0_x" else None)
    Worker(sweep).work()
    assert [state.outcome for state in states(sweep)] == [outcome, Outcome()]
    first, second = logs(sweep)
    assert first.splitlines()[-1].endswith(logged)
    assert ("has failed" in first) == (type(error) is ValueError)
    assert logged not in second
    assert "has failed" not in second


def test_the_log_of_a_job_says_that_it_was_stopped(sweep, runs):
    def act(request):
        leave(request.folder, "finished")
        if request.folder.name == "1_x":
            leave(request.folder, "stopped", reason="stopped at step 7")
            raise Stopped(7, signal.SIGTERM)

    runs(act)
    with pytest.raises(Stopped):
        Worker(sweep).work()
    assert ["stopped at step 7" in text for text in logs(sweep)] == [False, True]
    assert "interrupted" not in logs(sweep)[0]
    assert states(sweep)[0].outcome == Outcome()
    assert states(sweep)[1] == State()


@pytest.mark.parametrize(
    ("end", "attempts"),
    [
        (Stopped(7, signal.SIGTERM), 0),
        (KeyboardInterrupt(), 0),
        (Preempted(7, AGAIN), 0),
        (ValueError("a bug of ours"), 1),
        (SystemExit(7), 1),
    ],
)
def test_a_stop_is_not_held_against_jobs_and_any_other_end_of_a_worker_is(
    sweep, runs, end, attempts
):
    def act(request):
        raise end

    runs(act)
    with pytest.raises(type(end)):
        Worker(sweep).work()
    assert [(state.attempts, state.outcome) for state in states(sweep)] == [(attempts, None)] * 2
    assert not list(sweep.work.glob("*.lock"))


def test_a_stranger_is_not_believed(sweep, runs, capsys):
    runs(lambda request: pytest.fail("it was built"))
    for key, value, message in (
        ("sae", {"_target_": "os.system", "command": "true"}, "sae._target_='os.system': must be"),
        ("seed", "${oc.env:HOME}", "seed='${oc.env:HOME}': must be without"),
    ):
        sweep.write_configs({0: {**CONFIG, key: value}})
        with pytest.raises(SystemExit) as ended:
            main([str(sweep.path)])
        assert ended.value.code == 2
        told = capsys.readouterr().err
        assert message in told
        assert told.count("\n") == 1
    note = json.loads((sweep.path / "sweep.json").read_text())
    note["jobs"][0]["folder"] = "../elsewhere"
    (sweep.path / "sweep.json").write_text(json.dumps(note))
    with pytest.raises(SystemExit):
        main([str(sweep.path)])
    assert "must be a folder below the sweep's" in capsys.readouterr().err


def test_classes_of_ones_own_are_named_on_the_workers_command_line(
    sweep, runs, tmp_path, monkeypatch
):
    (tmp_path / "mine.py").write_text("class Own:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = {**CONFIG, "sae": {"_target_": "mine.Own"}, "plugins": ["mine"]}
    sweep.write_configs({0: config, 1: config})
    runs(lambda request: None)
    with pytest.raises(RunError, match="name its module: plugins="):
        Worker(sweep).work()
    Worker(sweep, plugins=["mine"]).work()
    assert [state.outcome for state in states(sweep)] == [Outcome()] * 2


def test_a_folder_without_work_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "holds no sweep" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
