"""`hydra/sweeper=bayes`: trials that are jobs, and a search that goes on where it was left."""

import inspect
import json
import math
import re
import sys
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf

import launch
from temporal_sae.cli import run_command_line
from temporal_sae.errors import InvalidOption, RunError, SweepIncomplete
from temporal_sae.search.bayes import BayesSweeper
from temporal_sae.search.proposals import dimension
from temporal_sae.sweep.states import Outcome, State
from temporal_sae.sweep.status import read_sweep

CONF = Path(__file__).parents[2] / "conf"
SPACE = {"weight": "tag(log, interval(0.1, 30))", "window": "tag(log, int(interval(200, 5000)))"}


def quality(options):
    """Best, 0, at a weight of 3 and a window of 1000."""
    weight, window = float(options["weight"]), int(options["window"])
    return -(math.log(weight / 3) ** 2) - math.log(window / 1000) ** 2


class Launcher:
    """Leaves in every job's folder what a run would; remembers the jobs of each call."""

    def __init__(self, objective=quality):
        self.objective = objective
        self.calls = []

    def work(self, folder, numbers, plugins):
        self.calls.append([])
        jobs, configs = folder.jobs(), folder.configs()
        for job in jobs:
            if job.number in numbers:
                config = configs[job.number]
                reason = self.run(folder.path / job.folder, job, config)
                folder.states.write(job.number, State(outcome=reason))
        return ""

    def run(self, folder, job, options):
        tried = dict(override.split("=", 1) for override in job.overrides)
        self.calls[-1].append({key: tried[key] for key in SPACE if key in tried})
        try:
            value = self.objective({**options, **tried})
        except RunError as error:
            return Outcome(str(error), refused=str(error).startswith("kind"))
        folder.mkdir(exist_ok=True)
        (folder / "run.json").write_text(json.dumps({"status": "finished", "config": {}}))
        results = {"training results for layer 3": {"final_info": {"final_loss": value}}}
        (folder / "results.json").write_text(json.dumps(results))
        return Outcome()


@pytest.fixture
def search(tmp_path, monkeypatch):
    """Runs a search in a config of two options; returns the launcher, which has all jobs."""
    conf = tmp_path / "conf"
    conf.mkdir()
    config = {"seed": 42, "objective": "final_loss", "weight": 1.0, "window": 1000, "kind": "a"}
    hydra = {"sweep": {"dir": "sweep", "subdir": "${hydra.job.num}_${hydra.job.override_dirname}"}}
    OmegaConf.save({**config, "hydra": hydra}, conf / "config.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["launch.py", "-m"])
    Plugins.instance()  # registers Hydra's own options
    loader = ConfigLoaderImpl(config_search_path=create_config_search_path(str(conf)))
    before = HydraConfig.instance().cfg

    def run(*arguments, objective=quality, **options):
        sweeper = BayesSweeper(**{"n_trials": 4, "n_startup_trials": 2, "params": SPACE} | options)
        master = loader.load_configuration("config", list(arguments), run_mode=RunMode.MULTIRUN)
        HydraConfig.instance().set_config(master)
        sweeper.config, sweeper.hydra_context = master, HydraContext(loader, None)
        sweeper.launcher = run.launcher = Launcher(objective)
        sweeper.sweep(list(arguments))
        return run.launcher

    yield run
    HydraConfig.instance().cfg = before


def read_dimension(key, text):
    (override,) = OverridesParser.create().parse_overrides([f"{key}={text}"])
    return dimension(override)


def note():
    return json.loads(Path("sweep/sweep.json").read_text())


def tried():
    """What the jobs of the sweep try, in their order."""
    jobs = [dict(o.split("=", 1) for o in job["overrides"]) for job in note()["jobs"]]
    return [{key: job[key] for key in SPACE} for job in jobs]


def test_every_trial_is_a_job_and_the_best_is_told(search, capsys):
    launcher = search("kind=b")
    assert [len(call) for call in launcher.calls] == [1] * 4
    assert tried() == [job for call in launcher.calls for job in call]
    assert all("kind=b" in job["overrides"] for job in note()["jobs"])
    values = [quality(job) for job in tried()]
    best = values.index(max(values))
    expected = [f"{key}={word}" for key, word in tried()[best].items()]
    assert note()["best"] == {
        "number": best,
        "folder": note()["jobs"][best]["folder"],
        "overrides": expected,
        "objective": "final_loss",
        "value": values[best],
    }
    out = capsys.readouterr().out
    assert "trial 1 of 4; none is done yet" in out
    assert f"best: final_loss={values[best]:.6g} with {' '.join(expected)}" in out.splitlines()[-1]
    assert Path("sweep/sweep.csv").exists()


def test_several_at_a_time(search):
    assert [len(call) for call in search(n_trials=5, n_jobs=2).calls] == [2, 2, 1]


@pytest.mark.parametrize("killed_in", [1, 2])
def test_the_same_command_goes_on_as_if_nothing_had_happened(search, killed_in):
    command = {"n_trials": 4, "n_jobs": 2, "n_startup_trials": 1, "seed": 1}
    search(**command)
    undisturbed = tried()
    Path("sweep").rename("undisturbed")

    def interrupted(options):
        if {key: options[key] for key in SPACE} == undisturbed[killed_in]:
            raise KeyboardInterrupt
        return quality(options)

    with pytest.raises(KeyboardInterrupt):
        search(**command, objective=interrupted)
    assert tried() == undisturbed[: 2 if killed_in < 2 else 4]
    launcher = search(**command)
    assert tried() == undisturbed
    again = [job for call in launcher.calls for job in call]
    assert again == undisturbed[killed_in:]  # nothing that was finished


def test_a_finished_search_is_left_alone_and_a_longer_one_goes_further(search):
    search(n_trials=2)
    assert not search(n_trials=2).calls
    assert [len(call) for call in search(n_trials=3).calls] == [1]
    assert len(tried()) == 3


def test_a_failed_trial_is_told_and_repeated_by_the_next_command(search):
    def fails_once(options):
        if len(search.launcher.calls) == 2:
            raise RunError("out of memory")
        return quality(options)

    with pytest.raises(SweepIncomplete) as told:
        search(objective=fails_once)
    assert len(tried()) == 4
    assert list(told.value.failures.values()) == ["out of memory"]
    assert read_sweep("sweep")[1].reason == "out of memory"
    assert note()["best"]["number"] != 1
    assert search().calls == [[tried()[1]]]
    assert read_sweep("sweep")[1].state == "finished"


def test_a_trial_without_a_finite_objective_counts_as_failed(search):
    search(objective=lambda options: math.inf if float(options["weight"]) > 2 else 1.0)
    assert any(float(job["weight"]) > 2 for job in tried())
    assert note()["best"]["value"] == 1.0
    search("objective=l0")
    assert note()["best"] is None


def test_a_mistake_in_every_trial_ends_the_search_at_the_first(search):
    def refused(options):
        raise RunError("kind='a': must be b")

    with pytest.raises(RunError, match=r"^kind='a': must be b$"):
        search(objective=refused)
    assert len(search.launcher.calls) == 1
    assert not Path("sweep").exists()


def test_what_is_typed_goes_before_the_params(search):
    search("weight=2", "window=choice(300,400)", "kind=x,y", n_trials=20)
    assert len(tried()) == 4  # and no more are left
    assert {job["weight"] for job in tried()} == {"2"}
    assert {job["window"] for job in tried()} == {"300", "400"}


def test_a_param_without_a_value_is_not_searched(search):
    launcher = search(params=SPACE | {"weight": None}, objective=lambda o: float(o["window"]))
    assert all(job.keys() == {"window"} for call in launcher.calls for job in call)


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ([], {"n_trials": 0}, "hydra.sweeper.n_trials=0: must be a whole number of at least 1"),
        ([], {"n_jobs": "many"}, "hydra.sweeper.n_jobs='many': must be a whole number"),
        ([], {"n_startup_trials": 0}, "hydra.sweeper.n_startup_trials=0: must be"),
        ([], {"seed": -1}, "hydra.sweeper.seed=-1: must be a whole number"),
        ([], {"direction": "up"}, "hydra.sweeper.direction='up': must be one of maximize, minim"),
        ([], {"also": [["kind=a,b"]]}, "hydra.sweeper.also=.*: must be empty with"),
        ([], {"params": None}, "hydra.sweeper.params: must hold something to search"),
        (["weight=1", "window=1"], {}, "hydra.sweeper.params: must hold something to search"),
        (["weight=interval(5,1)"], {}, "weight='interval.5,1.': must be an interval whose low"),
        (["objective=a,b"], {}, "objective=a,b: must be one value for all trials"),
    ],
)
def test_wrong_options_are_told_in_one_line(search, arguments, options, said):
    with pytest.raises((InvalidOption, RunError), match=f"^{said}"):
        search(*arguments, **options)
    assert not Path("sweep").exists()


def test_an_unknown_key_is_told_before_any_work(search):
    with pytest.raises(ConfigCompositionException, match="widow"):
        search("widow=interval(1,2)")
    assert not Path("sweep").exists()


def test_a_folder_of_another_search_is_refused(search):
    search(n_trials=1)
    before = note()
    for arguments in (["kind=b"], ["weight=interval(50,60)"]):
        with pytest.raises(RunError, match="holds another sweep"):
            search(*arguments, n_trials=2)
    assert note() == before


def test_without_optuna_one_line_says_what_is_needed(search, monkeypatch):
    monkeypatch.setattr("temporal_sae.search.bayes.find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"^hydra/sweeper=bayes: needs optuna .pip install"):
        search()


def test_every_option_is_a_constructor_argument():
    options = OmegaConf.load(CONF / "hydra/sweeper/bayes.yaml")
    assert options.pop("_target_") == "hydra_plugins.temporal_sae_plugins.BayesSweeper"
    assert set(options) == inspect.signature(BayesSweeper).parameters.keys() - {"also"}
    options.seed = 0
    preset = BayesSweeper(**options)
    for key, value in preset.params.items():
        assert read_dimension(key, value).log


@pytest.mark.slow
def test_a_search_of_real_runs(random_gemma, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = (
        f"model.name={random_gemma} model.hook_name=blocks.1.hook_resid_post "
        "activations.context_size=32 activations.buffer_tokens=512 sae.d_sae=64 sae.k=4 "
        "trainer.num_tokens=2048 trainer.batch_size=128 trainer.warmup_steps=2 "
        "eval.n_reconstruction_sequences=8 eval.n_sparsity_sequences=8 objective=ce_loss_score "
        "hydra/sweeper=bayes hydra.sweeper.n_trials=3 hydra.sweeper.n_startup_trials=1 "
        "hydra.sweep.dir=sweep tracker.window_size=int(interval(100,300))"
    ).split()
    monkeypatch.setattr(sys, "argv", ["launch.py", "-m", *options])
    run_command_line(launch.launch, CONF)
    best = note()["best"]
    results = [Path("sweep", job["folder"], "results.json") for job in note()["jobs"]]
    scores = [
        float(re.search(r'"ce_loss_score": ([\d.]+)', path.read_text())[1]) for path in results
    ]
    assert best["value"] == max(scores)
    assert best["number"] == scores.index(max(scores))
    written = {path: path.stat().st_mtime_ns for path in Path("sweep").glob("*/*/*")}
    run_command_line(launch.launch, CONF)  # again: nothing is left to do
    assert written == {path: path.stat().st_mtime_ns for path in Path("sweep").glob("*/*/*")}
    assert note()["best"] == best
