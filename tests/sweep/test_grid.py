"""A sweep from its command line to its record; most with runs that only pretend to train."""

import csv
import json
import shutil
import signal
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins

from temporal_sae.commands import in_shell, program
from temporal_sae.errors import EvaluationFailed, RunError
from temporal_sae.experiment.together import Ending
from temporal_sae.locks import ProcessLock
from temporal_sae.sweep import worker
from temporal_sae.sweep.__main__ import main
from temporal_sae.sweep.basic import BasicLauncher
from temporal_sae.sweep.local import LocalLauncher
from temporal_sae.sweep.plan import SweepFolder
from temporal_sae.sweep.status import read_sweep
from temporal_sae.training import Stopped
from tests.test_cli import small


class Runs(list):
    """The windows of the jobs that were run, and what some of them are to raise."""

    def __init__(self):
        super().__init__()
        self.does = {}


@pytest.fixture
def runs(monkeypatch):
    """Jobs that write run.json, and are done or raise what `runs.does` says of their window."""
    runs = Runs()

    def run(request):
        window, folder = request.cfg.tracker.window_size, request.folder
        runs.append(window)
        action = runs.does.get(window)
        if isinstance(action, BaseException) and not str(action).startswith("late"):
            raise action
        folder.mkdir(parents=True, exist_ok=True)
        record = {"status": "running", "config": {}, "seed": request.cfg.seed}
        record["overrides"] = list(request.overrides)
        (folder / "run.json").write_text(json.dumps(record))
        if action is not None:
            raise action
        (folder / "run.json").write_text(json.dumps({**record, "status": "finished"}))
        return 1.0 / window

    def run_together(requests, about, console, when_over):
        for n, request in enumerate(requests):
            try:
                with about(n):
                    when_over(n, Ending(runs.run(request), None))
            except Stopped:
                raise
            except Exception as error:  # noqa: BLE001 - as the real one does it
                when_over(n, Ending(None, error))

    runs.run = run
    monkeypatch.setattr(worker, "run_together", run_together)
    return runs


@pytest.fixture
def sweep(command):
    """Runs a sweep in the folder `s`."""
    return lambda *words: command("-m", *words, "hydra.sweep.dir=s")


def states():
    return [status.state for status in read_sweep("s")]


def test_every_job_has_a_folder_named_after_what_it_changes(sweep, runs):
    code, out, err = sweep("tracker.window_size=5,6", "seed=1,2", "loss.ortho_weight=0.5")
    assert (code, err, sorted(runs)) == (0, "", [5, 5, 6, 6])
    names = {f"{n}_tracker.window_size={5 + n // 2},seed={1 + n % 2}" for n in range(4)}
    files = {".sweep", "sweep.json", "sweep.csv", "sweep_full.parquet", "multirun.yaml"}
    files |= {"report.html", "notes.md"}
    assert {path.name for path in Path("s").iterdir()} == names | files
    record = json.loads(Path("s/3_tracker.window_size=6,seed=2/run.json").read_text())
    assert record["seed"] == 2
    assert record["overrides"] == ["tracker.window_size=6", "seed=2", "loss.ortho_weight=0.5"]
    assert "4 of 4 finished" in out
    note = SweepFolder("s").read()
    assert note["launcher"] == "basic"
    assert note["command"].endswith("loss.ortho_weight=0.5 hydra.sweep.dir=s")


def test_a_job_that_fails_does_not_stop_the_others(sweep, runs):
    runs.does = {
        1: ValueError("a bug\nin two lines"),
        2: RunError("no such text"),
        3: EvaluationFailed({"scr": "out of memory"}),
    }
    code, out, err = sweep("tracker.window_size=1,2,3,4")
    assert (code, runs) == (4, [1, 2, 3, 4])
    told = err.splitlines()
    assert told[:3] == [
        "error: job 0 (tracker.window_size=1): ValueError: a bug in two lines",
        "error: job 1 (tracker.window_size=2): no such text",
        "error: job 2 (tracker.window_size=3): eval scr: out of memory",
    ]
    assert told[3].startswith(f"to repeat what failed or is missing: {in_shell(program())} ")
    assert told[3].endswith(" -m tracker.window_size=1,2,3,4 hydra.sweep.dir=s")
    assert len(told) == 4
    assert out.count("Traceback") == 1  # of the bug, and of nothing else
    assert states() == ["failed", "failed", "failed", "finished"]
    assert [path.parent.name for path in Path("s").glob("*/log.txt")] == ["3_tracker.window_size=4"]
    with open("s/sweep.csv") as file:
        assert [row["reason"] for row in csv.DictReader(file)][1] == "no such text"


def test_the_same_command_does_what_is_missing_and_more_values_what_is_new(sweep, runs):
    runs.does = {1: RunError("late: the disk went away")}
    assert sweep("tracker.window_size=1,2")[0] == 4
    record = json.loads(Path("s/0_tracker.window_size=1/run.json").read_text())
    assert (record["status"], record["reason"]) == ("failed", "late: the disk went away")
    runs.clear()
    runs.does = {}
    assert sweep("tracker.window_size=1,2")[0] == 0
    assert runs == [1]
    assert states() == ["finished", "finished"]
    runs.clear()
    assert sweep("tracker.window_size=3,2,1")[0] == 0
    assert runs == [3]
    assert [job.number for job in SweepFolder("s").jobs()] == [0, 1, 2]
    runs.clear()
    code, out, _ = sweep("tracker.window_size=1,2,3")
    assert (code, runs) == (0, [])
    assert "3 jobs in s, 3 of them finished already" in out
    assert sweep("tracker.window_size=1,2,3", "overwrite=true")[0] == 0
    assert sorted(runs) == [1, 2, 3]


@pytest.mark.parametrize(
    ("stopped", "expected"),
    [
        (KeyboardInterrupt(), 130),
        (Stopped(7, signal.SIGTERM), 143),
        (Stopped(7, signal.SIGINT), 130),
    ],
)
def test_a_sweep_that_is_interrupted_says_how_to_go_on(sweep, runs, stopped, expected):
    runs.does = {2: stopped}
    code, out, err = sweep("tracker.window_size=1,2,3")
    assert (code, err, runs) == (expected, "", [1, 2])
    last = out.splitlines()[-1]
    assert last.startswith(f"to continue: {in_shell(program())} ")
    assert last.endswith(" -m tracker.window_size=1,2,3 hydra.sweep.dir=s")
    assert "1 of 3 finished, 2 missing" in out
    assert Path("s/sweep.csv").exists()
    assert not Path("s/.lock").exists()
    runs.clear()
    runs.does = {}
    assert sweep("tracker.window_size=1,2,3")[0] == 0
    assert runs == [2, 3]


def test_the_folder_of_another_sweep_or_of_one_that_runs_is_left_as_it_is(sweep, runs):
    sweep("tracker.window_size=1,2")
    before = sorted((p, p.stat().st_mtime_ns) for p in Path("s").iterdir())
    runs.clear()
    with SweepFolder("s").held():
        told = sweep("tracker.window_size=1,2,3")
    assert told == (2, "", "error: s: another sweep is running in this folder\n")
    code, _, err = sweep("tracker.window_size=1", "loss.ortho_weight=9")
    assert (code, err.count("\n"), runs) == (2, 1, [])
    assert err.startswith("error: s: holds another sweep (2 of its 2 jobs are not in this command")
    assert sorted((p, p.stat().st_mtime_ns) for p in Path("s").iterdir()) == before


def test_mistakes_of_all_jobs_leave_nothing_and_different_ones_are_all_told(sweep, runs):
    runs.does = {1: RunError("no text"), 2: RunError("no text"), 3: RunError("no model")}
    assert sweep("tracker.window_size=1,2")[::2] == (2, "error: no text\n")
    assert list(Path.cwd().iterdir()) == []
    code, _, err = sweep("tracker.window_size=1,3")
    assert (code, err) == (2, "error: none of the 2 jobs can start: no text; no model\n")
    assert list(Path.cwd().iterdir()) == []


def test_a_bug_in_all_jobs_is_no_mistake_to_correct(sweep, runs):
    runs.does = {1: ValueError("a bug"), 2: ValueError("a bug")}
    assert sweep("tracker.window_size=1,2")[0] == 4
    assert states() == ["failed", "failed"]


def test_a_preset_sweeps_by_itself_and_its_jobs_can_be_repeated_alone(command, runs):
    code, _, err = command("sweep=window", "seed=3", "hydra.sweep.dir=s")
    assert (code, err, runs) == (0, "", [500, 1000, 2000, 5000])
    assert SweepFolder("s").jobs()[0].overrides == ("tracker.window_size=500", "seed=3")
    assert SweepFolder("s").read()["command"].endswith("sweep=window seed=3 hydra.sweep.dir=s")


def test_what_a_launcher_cannot_do_is_one_line_and_leaves_nothing(sweep, runs, monkeypatch):
    def work(self, folder, numbers, plugins):
        raise RunError("there is no cluster")

    monkeypatch.setattr(BasicLauncher, "work", work)
    assert sweep("tracker.window_size=1,2") == (2, "2 jobs in s\n", "error: there is no cluster\n")
    assert list(Path.cwd().iterdir()) == []
    assert runs == []


def test_a_class_whose_module_is_not_named_is_refused_before_any_worker_starts(
    sweep, monkeypatch, tmp_path
):
    (tmp_path / "mine.py").write_text("class Own:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    workers = []

    def work(self, folder, numbers, plugins):
        workers.append(plugins)
        return "it was not done"

    monkeypatch.setattr(LocalLauncher, "work", work)
    words = ("hydra/launcher=local", "sae._target_=mine.Own", "tracker.window_size=1,2")
    code, _, err = sweep(*words)
    assert (code, workers) == (2, [])
    assert err.startswith("error: s/.sweep/configs.json: sae._target_='mine.Own': must be ")
    assert err.endswith("where it is a class of your own, name its module: plugins=[my_module]\n")
    assert list(Path.cwd().iterdir()) == []
    assert sweep(*words, "plugins=[mine]")[0] == 4
    assert workers == [["mine"]]


def test_a_job_that_no_worker_has_done_says_so(sweep, runs, monkeypatch):
    monkeypatch.setattr(BasicLauncher, "work", lambda *given: "the cluster is gone")
    code, _, err = sweep("tracker.window_size=1,2")
    assert code == 4
    assert err.startswith("error: job 0 (tracker.window_size=1): the cluster is gone\n")
    assert states() == ["failed", "failed"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("hydra/sweeper=basic", "hydra/sweeper=basic: must be one of grid, bayes"),
        ("hydra/sweeper=basic hydra/launcher=local", "hydra/launcher=local: needs hydra/sweeper=g"),
        ("hydra.sweeper.max_batch_size=2", "hydra.sweeper.max_batch_size: is gone: workers"),
    ],
)
def test_what_does_not_go_together_is_one_line(sweep, runs, words, message):
    code, _, err = sweep("tracker.window_size=1,2", *words.split())
    assert (code, err.count("\n"), runs) == (2, 1, [])
    assert err.startswith(f"error: {message}")


def test_a_launcher_of_somebody_elses_is_one_line(sweep, runs, monkeypatch):
    class Joblib:
        def launch(self, overrides, first):
            pytest.fail("it does not know the folder")

    monkeypatch.setattr(Plugins.instance(), "instantiate_launcher", lambda **given: Joblib())
    code, _, err = sweep("tracker.window_size=1,2", "hydra/launcher=local")
    assert (code, runs) == (2, [])
    assert err == "error: hydra/launcher='local': must be one of basic, local, slurm\n"


def test_folders_of_ones_own_must_differ(sweep, runs):
    code, _, err = sweep("tracker.window_size=1,2", "hydra.sweep.subdir=here")
    assert (code, runs) == (2, [])
    assert "hydra.sweep.subdir=here: must differ between jobs 0 and 1" in err
    assert list(Path.cwd().iterdir()) == []
    own = "hydra.sweep.subdir='w${tracker.window_size}, and \"more\"'"
    assert sweep("tracker.window_size=1,2", own)[0] == 0
    names = {path.parent.name for path in Path("s").glob("*/run.json")}
    assert names == {'w1, and "more"', 'w2, and "more"'}


def shown(capsys, *arguments):
    """What `python -m temporal_sae.sweep` prints, with its exit code."""
    code = 0
    try:
        main([str(a) for a in arguments])
    except SystemExit as stop:
        code = stop.code
    out = capsys.readouterr()
    return code, out.out, out.err


def test_a_sweep_is_shown(sweep, runs, capsys):
    assert shown(capsys, "s") == (2, "", "error: s: holds no sweep\n")
    runs.does = {2: RunError("late: broken")}
    sweep("tracker.window_size=1,2")
    Path("s/sweep.csv").unlink()
    code, out, err = shown(capsys, "s", "--watch")
    assert (code, err) == (4, "")
    assert out.startswith("1 of 2 finished, 1 failed\n")
    assert out.count("1 of 2 finished, 1 failed") == 2
    assert "late: broken" in out
    assert out.count("sweep.csv") == 1
    command = SweepFolder("s").read()["command"]
    assert out.splitlines()[-1] == f"to do what is missing: {command}"
    assert Path("s/sweep.csv").exists()
    with SweepFolder("s").held():
        assert "to do what is missing" not in shown(capsys, "s")[1]
    runs.does = {}
    sweep("tracker.window_size=1,2")
    code, out, _ = shown(capsys, "s")
    assert (code, "to do what is missing" in out) == (0, False)


def test_the_table_of_a_sweep_without_results_is_named_once(sweep, runs, capsys):
    runs.does = {2: RunError("late: broken")}
    sweep("tracker.window_size=2")
    assert shown(capsys, "s")[1].count("written: s/sweep.csv\n") == 1


@pytest.mark.slow
def test_a_sweep_of_real_runs(command, random_gemma):
    options = small(random_gemma)
    words = [*options, "hydra.sweep.dir=s"]
    code, _, err = command("-m", *words, "tracker.window_size=0,200,300")
    assert code == 4
    reason = "tracker.window_size=0: must be a whole number of at least 1"
    assert err.splitlines()[0] == f"error: job 0 (tracker.window_size=0): {reason}"
    results = sorted(Path("s").glob("*/results.json"))
    assert [p.parent.name for p in results] == [
        f"{n}_tracker.window_size={n + 1}00" for n in (1, 2)
    ]
    before = [p.stat().st_mtime_ns for p in results]
    code, _, err = command("-m", *words, "tracker.window_size=250,200,300")  # corrected
    assert (code, err) == (0, "")
    assert [p.stat().st_mtime_ns for p in results] == before
    with open("s/sweep.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["tracker.window_size"] for row in rows] == ["200", "300", "250"]
    for row in rows:
        found = json.loads(Path("s", row["folder"], "results.json").read_text())
        core = found["core evaluation results"]["metrics"]
        assert float(row["core.l0"]) == core["sparsity"]["l0"]
        assert float(row["tokens_per_second"]) > 0


def test_what_killed_writers_have_left_is_removed_unless_a_worker_is_there(sweep, runs):
    sweep("tracker.window_size=1,2")
    left = [Path("s/.unfinished-a"), Path("s/.sweep/.unfinished-b")]
    job = Path("s/0_tracker.window_size=1/.unfinished-c")  # left to the next run in there
    for path in [*left, job]:
        path.touch()
    lock = ProcessLock(Path("s/.sweep/1.lock"))
    lock.acquire()
    sweep("tracker.window_size=1,2")
    assert all(path.exists() for path in left)
    lock.release()
    sweep("tracker.window_size=1,2")
    assert not any(path.exists() for path in left)
    assert job.exists()


def test_a_sweep_whose_folder_is_removed_ends_in_one_line_and_makes_no_part_of_it_again(
    sweep, runs
):
    pretend = runs.run

    def run(request):
        pretend(request)
        if request.cfg.tracker.window_size == 200:
            shutil.rmtree("s")
            raise RunError("the folder was removed")
        return 1.0

    runs.run = run
    code, _, error = sweep("tracker.window_size=100,200,300,400")
    assert code == 2
    assert error == "error: s: the folder was removed while the sweep was going on\n"
    assert runs == [100, 200]
    assert list(Path.cwd().iterdir()) == []


def test_a_link_in_a_sweep_does_not_lead_to_somebody_elses_file(sweep, runs, tmp_path):
    words = ("tracker.window_size=100,200",)
    assert sweep(*words)[0] == 0
    precious = tmp_path / "precious"
    precious.write_text("mine")
    note = Path("s", "multirun.yaml")
    note.unlink()
    note.symlink_to(precious)
    assert sweep(*words)[0] == 0
    assert precious.read_text() == "mine"
    assert "hydra:" in note.read_text()


def test_a_folder_in_a_files_place_is_one_line(sweep, runs, capsys):
    assert sweep("tracker.window_size=100,200")[0] == 0
    Path("s", "sweep.csv").unlink()
    Path("s", "sweep.csv").mkdir()
    code, out, err = shown(capsys, "s")
    assert (code, err.count("\n")) == (2, 1)
    assert "2 of 2 finished" in out
    assert err.startswith("error: s/sweep.csv: cannot be used (")
