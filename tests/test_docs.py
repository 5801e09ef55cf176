"""Every command that README.md and docs/ print works: at toy size, or as far as NOT_RUN says."""

import json
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import open_dict

from temporal_sae.commands import CONF, SCRIPT
from temporal_sae.experiment.build import build_cheap
from temporal_sae.explain import check_typed
from temporal_sae.overrides.also import readable
from temporal_sae.overrides.expand import expand
from tests.pages import ROOT, commands, sessions
from tests.test_cli import small
from tests.test_plugins import plugins

LAUNCH = rf"(?:python launch\.py|{SCRIPT}|torchrun(?: --[\w-]+ \d+)* launch\.py)(?!\S)"
MODULE = r"python -m (temporal_sae\.\S+)"
BENCHMARK = r"python (benchmarks/\w+\.py)"
TOOL = r"(?:python3? -m (?:venv|pytest)|pip install|ruff|mypy|mkdocs|mkdir|cd|export)(?!\S)"
KINDS = (LAUNCH, MODULE, BENCHMARK, TOOL)
# Why a command is not run, at any size. Each is composed, or its words are checked, all the same.
NOT_RUN = {
    r"device=cuda": "needs a GPU",
    r"hydra/launcher=slurm": "needs a cluster; tests/slurm runs sweeps on one of its own",
    r"devices=\[0,2\]": "needs three GPUs",
    r"push_to_hub=|sae\.hub ": "uploads; tests/sae/test_hub.py has a hub of its own",
    r"activations (fetch|check)": "asks the hub; tests/activations/test_fetch.py has its own",
    r"EleutherAI": "needs the hub and SAEBench; tests/bench runs it on a model of its own",
    r"sweep=full": "is 93 runs; tests/test_config_surface.py composes each kind of them",
    r"temporal_sae\.study ": "takes hours, and writes docs; tests/study runs a small study",
    r"train_tiny": "trains for minutes; tests/assets trains a smaller model",
    r" (--help|--cfg)(?!\S)": "prints and runs nothing; it is called with the fast tests",
    r"activations=store (?!.*model=)": "needs the store that the command before it has built",
    r"temporal_sae\.atlas ": "needs a finished run; tests/atlas runs it on one",
    r"temporal_sae\.report (A/|(compare )?multirun/)": "needs a sweep; tests/report runs it on one",
    r"temporal_sae\.activations ": "needs a store; tests/activations runs each of them on one",
    r"^python benchmarks/": "measures for minutes to hours",
    r"^(\.venv/bin/)?(python3? -m (venv|pytest)|pip|ruff|mypy|mkdocs)": "is for .ci/run",
    r"^(mkdir|cd|export)": "is what the fixture `desk` does",
}
# Options beside `small`, for what else would take long.
SMALLER = {
    "sae=absolute": ["sae.d_sae=64"],
    "eval=tasks": [
        "eval.tasks=[sparse_probing]",
        "eval.sparse_probing.k_values=[1,2]",
        "eval.sparse_probing.train_rows=8",
        "eval.sparse_probing.test_rows=4",
        "eval.sparse_probing.n_resamples=10",
        "eval.core.n_reconstruction_sequences=4",
        "eval.core.n_sparsity_sequences=4",
    ],
    "activations=store": ["activations.num_tokens=3000", "activations.held_out_tokens=900"],
    "hydra/sweeper=bayes": ["hydra.sweeper.n_trials=2"],
    "hydra/launcher=local": ["hydra.launcher.devices=cpu", "hydra.launcher.threads=1"],
}
NO_MODEL = r"activations=(files|synthetic|vectors)|experiment=(toy|twin|synthsaebench)"
# Which sizes some choices of a group do not have.
UNKNOWN_TO = {
    r"(^| )sae=": "sae.k=",
    r"tracker=off|experiment=(baseline_topk|twin|synthsaebench)": "tracker.",
    r"eval=(tasks|saebench)": "eval.n_",
    rf"{NO_MODEL}|activations=store (?!.*model=)": "model.",
    NO_MODEL: "activations.context_size",
}
NEEDS_NO_NETWORK = ["data=stdlib", "eval=core"]  # of presets that read text from the hub
GIVEN = ("model.name", "model.hook_name", "hydra.sweeper.n_trials")  # here, whatever is typed
A_SWEEP = "multirun/DATE/TIME"
ALL = commands()

__all__ = ["plugins"]


def without_venv(command):
    return command.text.removeprefix(".venv/bin/")


def of_kind(kind, only=lambda command: True):
    found = [c for c in ALL if re.match(kind, without_venv(c)) and only(c)]
    return pytest.mark.parametrize("typed", found, ids=lambda c: f"{c.place} {c.text}")


def is_run(command):
    return not any(re.search(pattern, command.text) for pattern in NOT_RUN)


def test_every_command_is_of_one_kind_and_every_reason_that_of_a_command():
    kinds = {c: [kind for kind in KINDS if re.match(kind, without_venv(c))] for c in ALL}
    assert [c.text for c, found in kinds.items() if len(found) != 1] == []
    assert [p for p in NOT_RUN if not any(re.search(p, c.text) for c in ALL)] == []
    assert len([c for c in ALL if is_run(c)]) > 40


@pytest.fixture
def desk(command, plugins, random_gemma, tmp_path):
    """Fill the working directory with what the pages speak of; returns the words of a command."""
    Path("notes").mkdir()
    for n in range(12):
        Path("notes", f"{n}.txt").write_text(f"def function_{n}(x):\n    return x + {n}\n" * 60)
    rows = [{"body": f"row {n}: " + "some words " * 80} for n in range(300)]
    Path("acts").mkdir()
    np.save("acts/0.npy", np.random.default_rng(0).standard_normal((5000, 16), dtype=np.float32))
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    folders = {"$HOME": Path.cwd(), "$PWD": tmp_path, "FOLDER": random_gemma}

    def words(typed):
        text = re.sub(rf"^(?:{LAUNCH}|{MODULE}) ?", "", without_venv(typed))
        assert "'" not in text  # words with spaces would need more than this
        for name, folder in folders.items():
            text = text.replace(name, str(folder))
        return readable(text.split(), multirun=" -m " in typed.text)

    return words


def tiny(words, folder):
    """The options of a command with small sizes added; what is typed itself stays."""
    typed = [word for word in words if not word.startswith("-")]
    keys = {word.split("=")[0] for word in typed} - set(GIVEN)
    sizes = [*small(folder), *(o for word in typed for o in SMALLER.get(word, ()))]
    if any(w.startswith("experiment=") and not re.search(NO_MODEL, w) for w in typed):
        sizes += NEEDS_NO_NETWORK
    unknown = [start for word, start in UNKNOWN_TO.items() if re.search(word, " ".join(typed))]
    sizes = [o for o in sizes if not o.startswith(tuple(unknown)) and o.split("=")[0] not in keys]
    return [*typed, *sizes]


def composed(overrides):
    check_typed(overrides, CONF)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


def last_job(options, is_sweep):
    """The config of a command's run, or of its last job; of a search, what all jobs share."""
    parser = OverridesParser.create()
    fixed = [o for o in options if not parser.parse_override(o).is_sweep_override()]
    cfg = composed(fixed)
    if is_sweep or cfg.hydra.mode == RunMode.MULTIRUN:
        sweeper, own = cfg.hydra.sweeper, [o for o in options if o.startswith("hydra")]
        if "Bayes" not in sweeper._target_:
            others = [o for o in options if o not in own]
            jobs = expand(parser, sweeper.params or {}, sweeper.also or [], others)
            cfg = composed([*own, *jobs[-1]])
    else:
        assert fixed == options
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


@of_kind(LAUNCH)
def test_a_launch_composes_and_all_of_its_options_are_allowed(typed, desk, random_gemma, command):
    words = desk(typed)
    if "--help" in words or "--cfg" in words:
        code, out, err = command(*words)
        assert (code, err) == (0, "")
        assert out
        return
    options = [o.replace("device=cuda", "device=cpu") for o in tiny(words, random_gemma)]
    build_cheap(last_job(options, "-m" in words), Path("run").absolute())


def run_of(words, folder, command):
    """Run a launch at toy size; returns the records of its runs."""
    options = [word for word in words if word == "-m"] + tiny(words, folder)
    if "hydra/launcher=local" in options:  # its workers are started with the words of the process
        line = [sys.executable, str(ROOT / "launch.py"), *options]
        done = subprocess.run(line, capture_output=True, text=True, timeout=600)
        code, said = done.returncode, done.stdout + done.stderr
    else:
        code, out, err = command(*options)
        said = out + err
    assert code == 0, said
    return [json.loads(path.read_text()) for path in Path.cwd().rglob("run.json")]


@pytest.mark.slow
@of_kind(LAUNCH, only=is_run)
def test_a_launch_runs_to_its_end(typed, desk, random_gemma, command):
    records = run_of(desk(typed), random_gemma, command)
    assert {record["status"] for record in records} == {"finished"}


@of_kind(MODULE)
def test_the_words_of_a_module_are_understood_as_far_as_the_folder(typed, desk, capsys):
    """No folder is there yet, which each says in one line; a word it does not know is another."""
    name, words = re.match(MODULE, without_venv(typed))[1], desk(typed)
    if "train_tiny" in name or "study" in name:
        check_flags(Path(import_module(name).__file__), typed)
        return
    if "build" in words:
        composed(["activations=store", *(word for word in words if "=" in word)])
        return
    if name == "temporal_sae.eval" or words[0] in ("fetch", "check"):
        composed([word for word in words if "=" in word])
    if words[0] in ("fetch", "check"):
        check_flags(ROOT / f"temporal_sae/activations/{words[0]}.py", typed)
        return
    words = ["missing" if word.startswith("/") else word for word in words]
    with pytest.raises(SystemExit) as stopped:
        program(name).main(words)
    err = capsys.readouterr().err
    assert stopped.value.code == 2
    assert re.match(r"error: [\w./*-]+: ", err)
    assert "--help" not in err
    assert err.count("\n") == 1


def program(name):
    """The module that `python -m NAME` runs."""
    module = import_module(name)
    return module if hasattr(module, "main") else import_module(f"{name}.__main__")


@pytest.mark.slow
def test_modules_read_what_launches_have_left(desk, random_gemma, command, tmp_path):
    conf = f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
    runs = {"outputs/absolute": ["plugins=[absolute]", conf, "sae=absolute"], "outputs/mine": []}
    for seed in (1, 2):
        runs[f"A/seed{seed}"] = [f"seed={seed}"]
        runs[f"B/seed{seed}"] = [f"seed={seed}", "loss.ortho_weight=0"]
    for folder, words in runs.items():
        run_of([*words, f"hydra.run.dir={folder}"], random_gemma, command)
    run_of(["-m", "seed=1,2", f"hydra.sweep.dir={A_SWEEP}"], random_gemma, command)
    called = [c for c in ALL if re.match(MODULE, without_venv(c)) and is_run(c)]
    for typed in called:
        words = [A_SWEEP if word == str(random_gemma) else word for word in desk(typed)]
        found = [p for w in words for p in ([*map(str, Path().glob(w))] if "*" in w else [w])]
        options = [option for word in words for option in SMALLER.get(word, ())]
        program(re.match(MODULE, without_venv(typed))[1]).main([*found, *options])
    assert len(called) >= 6


def check_flags(path, typed):
    """Check that a program knows all the flags of a command."""
    flags = [word for word in typed.words if word.startswith("--")]
    assert [flag for flag in flags if f'"{flag}"' not in path.read_text()] == []


@of_kind(BENCHMARK)
def test_a_benchmark_is_there_and_knows_its_flags(typed):
    check_flags(ROOT / re.match(BENCHMARK, typed.text)[1], typed)


@of_kind(TOOL)
def test_a_tool_is_one_of_pyproject(typed):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = re.findall(r"\[(\w+)\]$", typed.text)
    assert set(extras) <= set(project["project"]["optional-dependencies"])
    marks = project["tool"]["pytest"]["ini_options"]["markers"]
    assert " -m slow" not in typed.text or any(mark.startswith("slow:") for mark in marks)


def test_the_test_command_of_ci_is_the_readme_s_first():
    lines = (ROOT / "README.md").read_text().splitlines()
    first = next(line for line in lines if line.startswith(".venv/bin/python -m pytest"))
    assert first == ".venv/bin/python -m pytest -n 2"


@pytest.mark.parametrize(
    ("typed", "printed"), sessions(), ids=lambda x: getattr(x, "text", None) or "output"
)
def test_what_a_page_prints_below_a_command_is_what_it_answers(typed, printed, desk, command):
    code, out, err = command(*desk(typed))
    assert out + err == printed
    assert code == (2 if printed.startswith("error: ") else 0)
