"""Shared pieces: a language model small enough to make in a moment."""

import os
import signal
import sys
from pathlib import Path

# Several processes of pytest-xdist have a core each; more threads take half as much time again.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import pytest
import torch

from temporal_sae.activations import LanguageModel
from temporal_sae.assets import TINY_MODEL
from temporal_sae.cli import launch, run_command_line
from temporal_sae.commands import CONF
from tests.browser import chromium

__all__ = ["chromium"]  # a fixture
TESTS = Path(__file__).parent
# Files and folders with long tests or long preparations, the longest first: begun late, one of them
# would keep a process busy when there is nothing left for the others.
LONGEST = (
    "slurm/",
    "bench/test_saebench.py",
    "bench/test_saebench_more.py",
    "test_random_configs.py",
    "sweep/test_random_kills.py",
    "activations/test_store_kills.py",
    "training/test_data_parallel.py",
)
# Files whose tests share nothing and fill what is left of the time.
APART = ("test_architectures.py", "test_docs.py", "test_end_to_end.py")

# What a shell starts in the background ignores Ctrl-C, and what nohup starts a closed terminal; so
# would every run that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_ignore_collect(collection_path, config):
    """Leave out `bench` where no slow test is wanted: importing others' packages takes seconds."""
    is_bench = collection_path == Path(__file__).parent / "bench"
    return True if is_bench and config.option.markexpr == "not slow" else None


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    """Mark what imports the packages of others, and what pytest-xdist runs in one process.

    What the tests of a file share is made once, and a cluster is not in the way of another.
    """
    for item in items:
        file = item.path.relative_to(TESTS)
        if file.parts[0] == "bench":
            item.add_marker(pytest.mark.slow)
        if str(file) not in APART:
            group = "slurm" if file.parts[0] == "slurm" else str(file)
            item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=turn)  # which keeps the order of equals


def turn(item):
    """Return when a test is to begin, among others of its kind."""
    file = str(item.path.relative_to(TESTS))
    long = [place for place, name in enumerate(LONGEST) if file.startswith(name)]
    return long[0] if long else len(LONGEST) + (file in APART)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_tracebacks(monkeypatch):
    """The command line sets these for its own process, which in a test is everybody's."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    monkeypatch.setenv("TEMPORAL_SAE_TRACEBACK", "")


@pytest.fixture(scope="session")
def random_gemma(tmp_path_factory):
    """Folder of an untrained Gemma-2 with 3 layers of width 16 and the bundled tokenizer."""
    from transformers import AutoTokenizer, Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=2048,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=64,
        attn_implementation="eager",
    )
    folder = tmp_path_factory.mktemp("models") / "random_gemma"
    Gemma2ForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY_MODEL).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_model(random_gemma):
    """The untrained model, read after layer 1."""
    return LanguageModel(str(random_gemma), "blocks.1.hook_resid_post")


@pytest.fixture
def text_folder(tmp_path):
    """A few files of plain text."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for n in range(12):
        (folder / f"{n}.txt").write_text(f"def function_{n}(x):\n    return x + {n}\n" * 60)
    return folder


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """Runs launch.py in an empty working directory; returns (exit code, stdout, stderr)."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["launch.py", *arguments])
        code = 0
        try:
            run_command_line(launch, CONF)
        except SystemExit as stop:
            code = stop.code
        out = capsys.readouterr()
        return code, out.out, out.err

    return run
