"""The command line: what a person types, what they read, what is left behind."""

import errno
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import launch
from temporal_sae.commands import CONF, in_shell, quoted


def small(folder, without=()):
    """A run of a second on an untrained model, less the options of groups chosen in `without`."""
    options = (
        f"model.name={folder}",
        "model.hook_name=blocks.1.hook_resid_post",
        "activations.context_size=32",
        "activations.buffer_tokens=512",
        "sae.d_sae=64",
        "sae.k=4",
        "trainer.num_tokens=2048",
        "trainer.batch_size=128",
        "trainer.warmup_steps=2",
        "trainer.log_every=4",
        "tracker.window_size=200",
        "eval.n_reconstruction_sequences=8",
        "eval.n_sparsity_sequences=8",
    )
    replaced = {re.split("[=@]", override.lstrip("~"))[0] for override in without}
    return [o for o in options if o.split(".")[0] not in replaced]


def assert_one_line(code, err, message):
    """Exit code 2, one line that says what is wrong, and nothing in the working directory."""
    assert code == 2
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1, err
    assert list(Path.cwd().iterdir()) == []


BAD = {
    "unknown key": (
        ["tracker.windw_size=3"],
        "tracker.windw_size: unknown key; the nearest valid key is tracker.window_size",
    ),
    "key of another option": (
        ["sae.l1_weight=1"],
        "sae.l1_weight: unknown key with this sae; it belongs to sae=gated or sae=standard",
    ),
    "added key": (["+tracker.foo=1"], "tracker.foo: unknown key"),
    "an option of a task": (
        ["eval=tasks", "eval.scr.n_values=[0]"],
        "eval.scr.n_values=",
    ),
    "added to a task": (["eval=tasks", "+eval.scr.foo=1"], "eval.scr.foo: unknown key"),
    "too many latents for a task": (
        ["eval=tasks", "sae.d_sae=64", "sae.k=4"],
        "eval.scr.n_values=[2, 5, 10, 20, 50, 100, 500]: must be",
    ),
    "added at the top": (["+ortho_weight=0.3"], "ortho_weight: unknown key"),
    "added to the logger": (["+logger.foo=1"], "logger.foo: unknown key"),
    "a word for a flag": (["overwrite=no"], "overwrite='no': must be true or false"),
    "another": (
        ["activations.prepend_bos=no"],
        "activations.prepend_bos='no': must be true or false",
    ),
    "a module without activations": (
        ["model.hook_name=model"],
        "model.hook_name='model': must be a module that",
    ),
    "a data set that is not there": (
        ["data=hub", "data.name=/no/such"],
        "data.name='/no/such': must be a data set on the hub, or an existing folder",
    ),
    "no sampling with the transcript": (
        ["tracker=transcript", "loss.estimator=sampled"],
        "loss.estimator='sampled': must be exact or auto with this tracker",
    ),
    "an endless rate": (["trainer.lr=inf"], "trainer.lr=inf: must be a number"),
    "a seed beyond 64 bits": (
        ["seed=99999999999999999999999"],
        "must be a whole number below 2^63",
    ),
    "an empty path": (["data=text_files", "data.path="], "data.path='': must be a folder"),
    "a sweep with a misspelt key": (["-m", "tracker.windw=1,2"], "tracker.windw: unknown key"),
    "unknown option": (
        ["sae=magic"],
        "sae=magic: must be one of batch_topk, gated, jumprelu, lista, matryoshka, standard, topk",
    ),
    "unknown group": (["seas=topk"], "seas: unknown key; the nearest valid key is"),
    "window of 0": (
        ["tracker.window_size=0"],
        "tracker.window_size=0: must be a whole number of at least 1",
    ),
    "window below 0": (["tracker.window_size=-7"], "tracker.window_size=-7: must be"),
    "window in words": (["tracker.window_size=many"], "tracker.window_size='many': must be"),
    "alpha_cap 0": (["tracker.alpha_cap=0"], "tracker.alpha_cap=0: must be a number in (0, 1]"),
    "alpha_cap above 1": (
        ["tracker.alpha_cap=1.5"],
        "tracker.alpha_cap=1.5: must be a number in (0, 1]",
    ),
    "k above d_sae": (["sae.k=65"], "sae.k=65: must be at most d_sae=64"),
    "more than fits": (
        ["activations.buffer_tokens=4000000000"],
        "lower activations.buffer_tokens (shuffle",
    ),
    "missing layer": (
        ["model.hook_name=blocks.3.hook_resid_post"],
        "model.hook_name='blocks.3.hook_resid_post': must be a layer from 0 to 2",
    ),
    "missing model": (
        ["model.name=/no/such/model"],
        "model.name='/no/such/model': must be tiny, an existing folder",
    ),
    "missing value": (["model=hf"], "model.name: has no value yet"),
    "no CUDA": (["device=cuda:99"], "device='cuda:99': must be one of auto, cpu"),
    "objective": (["objective=beauty"], "objective='beauty': must be one of ce_loss_score"),
    "objective not measured": (
        ["eval=none", "objective=ce_loss_score"],
        "objective='ce_loss_score': must be",
    ),
    "syntax": (["tracker.window_size=[1"], "tracker.window_size=[1"),
    "a sweep with a bad value in every job": (
        ["-m", "trainer.lr=inf", "seed=1,2"],
        "trainer.lr=inf: must be a number",
    ),
    "a sweep over what tells no jobs apart": (
        ["-m", "device=cpu,cuda"],
        "device='cpu,cuda': must be one value for all jobs",
    ),
    "a sweep without values": (
        ["-m", "loss.ortho_weight=interval(0,1)"],
        "loss.ortho_weight=interval(0,1): must be values or a range",
    ),
    "a sweep in a folder that cannot be written": (
        ["-m", "seed=1,2", "hydra.sweep.dir=/proc/sweep"],
        "hydra.sweep.dir=/proc/sweep: must be a folder that can be written",
    ),
    "a sweep over no values": (
        ["-m", "seed=range(0)"],
        "seed=range(0): must be one or more values, and there is none",
    ),
    "over options of which there are none": (
        ["-m", "sae=glob(x*)"],
        "sae=glob(x*): must be a pattern that fits some of its options (batch_topk, gated",
    ),
    "over the options of what is no group": (
        ["-m", "seed=glob(*)"],
        "seed=glob(*): must be a pattern that fits some of its options (none, for seed is no",
    ),
    "in steps of nothing": (
        ["-m", "seed=range(0,5,0)"],
        "seed=range(0,5,0): must be values or a range (",
    ),
    "without end": (
        ["-m", "loss.ortho_weight=range(0,inf)"],
        "loss.ortho_weight=range(0,inf): must be at most 100,000 values",
    ),
    "of more jobs than anybody wants": (
        ["-m", "seed=range(1000)", "loss.seed=range(1000)"],
        "the sweep has 1,000,000 jobs: must be at most 100,000",
    ),
    "a search over no values": (
        ["-m", "hydra/sweeper=bayes", "seed=range(0)"],
        "seed=range(0): must be one or more values, and there is none",
    ),
    "a sweep in which no job can start, each for a reason of its own": (
        ["-m", "sae.k=65,66,67,68,69"],
        "none of the 5 jobs can start: sae.k=65: must be at most d_sae=64; sae.k=66: must be at "
        "most d_sae=64; sae.k=67: must be at most d_sae=64; 2 more",
    ),
    "a search in which none can": (
        ["-m", "hydra/sweeper=bayes", "hydra.sweeper.n_trials=3", "sae.k=65,66,67,68,69"],
        "sae.k=6",
    ),
    "an unknown sweep": (
        ["sweep=magic"],
        "sweep=magic: must be one of alpha_cap, dictionary_size, full, ortho_weight, window",
    ),
    "an unknown launcher": (
        ["-m", "hydra/launcher=magic"],
        "hydra/launcher=magic: must be one of basic, local, slurm",
    ),
    "no key": (["=3"], "=3: must be key=value"),
    "a flag that there is not": (["--seed"], "unrecognized arguments: --seed"),
    "a flag without the one it goes with": (["--resolve"], "--resolve: goes with --cfg or --help"),
    "two things at a time": (["--multirun", "--run"], "only one of --run and --multirun"),
    "a group without a name": (["sae=null"], "sae=None: must be one of batch_topk, gated"),
    "a group with an empty name": (["sae="], "sae='': must be one of batch_topk, gated"),
    "a group in another place": (["sae@foo=topk"], "sae: is chosen by name, sae=one of batch_topk"),
    "a group removed": (["~sae"], "sae: is missing"),
    "a setting removed": (["~seed"], "seed: is missing"),
    "an option removed": (["~sae.k"], "sae.k: is missing"),
    "a function for a class": (
        ["eval._target_=print"],
        "eval._target_='print': must be the full name of a class",
    ),
    "a class of another kind": (
        ["data._target_=builtins.dict"],
        "must be a class with all that TextSource has; it lacks changed, describe",
    ),
    "a class that there is not": (["sae._target_=torch.Nothing"], "sae._target_='torch.Nothing'"),
    "a key that only Hydra obeys": (["+sae._partial_=true"], "sae._partial_: unknown key"),
    "an argument that the run gives": (["+sae.d_in=3"], "sae.d_in: unknown key"),
    "a task that is none": (["eval=tasks", "eval.scr=3"], "eval.scr=3: must be the options of"),
    "a reference to nothing": (["sae.k=${nothing}"], "sae.k: cannot be resolved (Interpolation"),
    "a reference to itself": (["sae.k=${sae.k}"], "sae.k: cannot be resolved (Recursive"),
    "a value that is left open": (["seed=???"], "seed: has no value yet"),
    "several values": (["seed=1,2"], "seed=1,2: several values are a sweep, with -m"),
    "an unquoted text": (
        ["data=text_files", "data.path=p/c=d"],
        """is put in quotes: "data.path='p/c=d'\"""",
    ),
    "no name for the folder": (
        ["hydra.run.dir="],
        "hydra.run.dir='': must be the name of a folder",
    ),
    "another working directory": (["hydra.job.chdir=true"], "hydra.job.chdir=True: must be false"),
    "a misspelt key of Hydra": (["hydra.run.dri=x"], "the nearest valid key is hydra.run.dir"),
    "what Hydra does not check": (["hydra.verbose=3"], "hydra.verbose=3: Hydra cannot use this"),
    "what Hydra only warns of": (
        ["hydra.searchpath=[foo]"],
        "hydra.searchpath=[foo]: Hydra cannot",
    ),
    "a launcher that is none": (["-m", "hydra.launcher=3"], "hydra.launcher: none can be made"),
    "a sweep over nothing": (["-m", "hydra.sweeper.params=3"], "hydra.sweeper.params=3: must be"),
    "an arm beside no sweep": (
        ["hydra.sweeper.also=seed=1"],
        "seed=1: stands beside a sweep, with",
    ),
    "an arm that is none": (["-m", "hydra.sweeper.also=[[x:1]]"], "also='x:1': must be overrides"),
    "a sweep of no lists": (["-m", "hydra.sweeper.also=3"], "hydra.sweeper.also=3: must be"),
    "a primary metric that is none": (
        ["-m", "seed=1", "hydra.sweeper.primary=x"],
        "hydra.sweeper.primary='x': must be a metric",
    ),
    "a job's folder elsewhere": (
        ["-m", "seed=1", "hydra.sweep.subdir=/tmp/x"],
        "hydra.sweep.subdir='/tmp/x': must be the name of a folder below the sweep's",
    ),
    "a flag among other words": (["seed=1", "-m", "trainer.lr=inf"], "trainer.lr=inf: must be"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_exit_2_and_nothing_left(command, random_gemma, case):
    arguments, message = BAD[case]
    words = [a for a in arguments if not a.startswith("-")]
    code, out, err = command(*small(random_gemma, without=words), *arguments)
    assert "Traceback" not in out
    assert_one_line(code, err, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "data.path="),
        ({"a.txt": "few words", "b.txt": "more"}, "fewer than one sequence"),
        ({"a.txt": "words " * 80}, "eval=core needs held-out rows"),
    ],
)
def test_bad_text(command, random_gemma, tmp_path, content, message):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_text(text)
    data = ("data=text_files", f"data.path={folder}", "eval=core")
    code, _, err = command(*small(random_gemma), *data)
    assert_one_line(code, err, message)


def test_nothing_is_left_outside_the_working_directory_either(command, random_gemma, tmp_path):
    folder = tmp_path / "elsewhere" / "run"
    folder.parent.mkdir()
    arguments = (*small(random_gemma), "tracker.alpha_cap=2", f"hydra.run.dir={folder}")
    assert command(*arguments)[0] == 2
    assert not folder.exists()
    assert folder.parent.exists()


def test_a_penalty_that_cannot_act_is_said_to(command, random_gemma):
    for choice in (["tracker=off"], ["tracker.window_size=5000"]):
        folder = f"hydra.run.dir={choice[0].split('=')[0]}"
        _, out, _ = command(*small(random_gemma, without=choice), *choice, folder)
        assert "so loss.ortho_weight=1 does nothing" in out


@pytest.mark.parametrize(
    "sae",
    [
        ["sae=standard", "sae.l1_weight=0"],
        ["sae=gated", "sae.l1_weight=0"],
        ["sae=jumprelu", "sae.l0_weight=0", "sae.l0_target=null"],
    ],
    ids=lambda sae: sae[0],
)
def test_no_sparsity_is_allowed_to_the_end(command, random_gemma, sae):
    options = [*small(random_gemma, without=["eval"]), "eval=none", *sae, "sae.d_sae=6.4e1"]
    code, _, err = command(*(o for o in options if o != "sae.k=4"), "hydra.run.dir=r")
    assert code == 0, err
    assert "0.0) on" in Path("r/notes.md").read_text().splitlines()[2]


@pytest.mark.parametrize("where", ["/proc/run", "{tmp}/file/run"])
def test_a_folder_that_cannot_be_written(command, random_gemma, tmp_path, where):
    (tmp_path / "file").write_text("")
    folder = where.format(tmp=tmp_path)
    code, _, err = command(*small(random_gemma), f"hydra.run.dir={folder}")
    assert_one_line(code, err, f"hydra.run.dir={folder}: must be a folder that can be written")


def test_what_every_start_imports_is_light():
    """Hydra imports all plugins at every start, for --help too."""
    slow = {"torch", "rich", "pyarrow", "optuna", "lightning_fabric", "filelock"}
    program = (
        "import sys, hydra_plugins.temporal_sae_plugins, temporal_sae.cli\n"
        f"print(*({slow} & set(sys.modules)))"
    )
    root = Path(launch.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_help_reads_like_a_manual(command):
    code, out, _ = command("--help")
    assert code == 0
    for section in ("USAGE", "GROUPS", "KEYS", "EXAMPLES", "FILES", "EXIT STATUS"):
        assert f"\n{section}" in out
    assert max(map(len, out.splitlines())) <= 100


def test_a_run_leaves_what_the_help_says_and_a_second_is_refused(command, random_gemma):
    code, out, err = command(*small(random_gemma), "hydra.run.dir=mine")
    assert code == 0, err
    left = {p.name for p in Path("mine").iterdir()}
    files = {".hydra", "run.json", "metrics.jsonl", "checkpoints", "sae", "eval", "results.json"}
    assert left == files | {"report.html", "notes.md", "text.json"}
    assert "written to mine" in out
    before = sorted((p, p.stat().st_mtime_ns) for p in Path("mine").rglob("*"))
    code, _, err = command(*small(random_gemma), "hydra.run.dir=mine")
    assert code == 2
    assert "mine: holds a finished run" in err
    assert sorted((p, p.stat().st_mtime_ns) for p in Path("mine").rglob("*")) == before
    assert command(*small(random_gemma), "hydra.run.dir=mine", "overwrite=true")[0] == 0


def test_rates_are_tokens_over_seconds(command, random_gemma):
    options = ["trainer.log_every=1", "trainer.num_tokens=1024", "hydra.run.dir=run"]
    code, _, err = command(*small(random_gemma), *options)
    assert code == 0, err
    record = json.loads(Path("run/run.json").read_text())
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert record["tokens_per_second"] == pytest.approx(1024 / record["training_seconds"])
    by_steps = sum(1024 / len(lines) / line["tokens_per_second"] for line in lines)
    assert by_steps == pytest.approx(record["training_seconds"], rel=0.2)


def test_a_full_disk_leaves_the_last_checkpoint_and_says_so(command, random_gemma, monkeypatch):
    from temporal_sae.training import Checkpoints

    options = [*small(random_gemma), "trainer.checkpoint_every=4", "hydra.run.dir=full"]
    save = Checkpoints.save

    def no_space_later(self, step, state):
        if step == 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(self, step, state)

    monkeypatch.setattr(Checkpoints, "save", no_space_later)
    code, _, err = command(*options)
    assert code == 2
    assert err.startswith("error: full: the disk is full")
    assert err.count("\n") == 1
    assert [p.name[:14] for p in Path("full/checkpoints").iterdir()] == ["step_000000004"]
    monkeypatch.setattr(Checkpoints, "save", save)
    code, out, _ = command(*options)
    assert code == 0
    assert "continuing at step 4" in out


def test_launch_returns_the_objective(random_gemma, tmp_path, monkeypatch):
    from hydra import compose, initialize_config_dir

    from temporal_sae.experiment import run_experiment

    monkeypatch.chdir(tmp_path)
    overrides = [*small(random_gemma), "objective=ce_loss_score"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides)
    objective = run_experiment(cfg, tmp_path / "run", overrides)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    metrics = results["core evaluation results"]["metrics"]
    assert objective == metrics["model_performance_preservation"]["ce_loss_score"]


def test_what_stands_in_an_override_is_recorded_as_typed(command, random_gemma):
    """References, which are replaced in the config, stay references in the command."""
    code, _, err = command(*small(random_gemma), "trainer.log_every=${sae.k}", "hydra.run.dir=r")
    assert code == 0, err
    record = json.loads(Path("r/run.json").read_text())
    assert "'trainer.log_every=${sae.k}'" in record["command"]
    assert record["command"].startswith(in_shell([sys.executable, str(launch.__file__)]))
    assert record["config"]["trainer"]["log_every"] == 4


def test_a_folder_whose_name_needs_quotes_is_continued_by_the_command_that_is_printed(
    command, random_gemma
):
    folder = "it's a=b, ${日本}"
    typed = [*small(random_gemma, ["eval=none"]), "eval=none", f"hydra.run.dir={quoted(folder)}"]
    code, _, err = command(*typed)
    assert code == 0, err
    assert Path(folder, "run.json").exists()
    code, _, err = command(*typed)
    assert code == 2
    assert "holds a finished run" in err
