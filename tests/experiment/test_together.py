"""Runs of one stream, side by side: each leaves what it leaves alone, and ends by itself."""

import gc
import json
import logging
import signal
import time
import weakref
from contextlib import contextmanager

import pytest
import torch
from rich.console import Console

from temporal_sae.activations import LanguageModel
from temporal_sae.activations.shared import SharedPasses
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.experiment import Request, memory, run_experiment, run_together, stream_of
from temporal_sae.machine import Free
from temporal_sae.training import Stopped
from temporal_sae.training.loggers import JsonlLogger
from temporal_sae.training.state_file import from_file
from tests.test_cli import small
from tests.test_config_surface import composed

QUIET = Console(quiet=True)
TIMES = (
    "seconds",
    "stopwatches",
    "wall",
    "peak_memory",
    "tokens_per_second",
    "started",
    "method_share",
    "bytes",
)
JOBS = {
    "plain": ["tracker=off", "loss.ortho_weight=0"],
    "window": ["tracker.window_size=100"],
    "ordered": ["tracker.stream=ordered"],
    "standard": ["sae=standard", "sae.d_sae=64", "trainer.lr=0.01"],
    "short": ["trainer.num_tokens=1024"],
    "other_kind": ["sae=batch_topk", "sae.d_sae=32", "sae.k=4"],
    "other_place": ["model.hook_name=blocks.0.hook_resid_post"],
    "other_evaluation": ["eval.n_sparsity_sequences=4", "objective=l0"],
}


@pytest.fixture
def request_for(random_gemma, tmp_path):
    """Makes the request for a run of a second in a folder below `tmp_path`."""

    def make(place, *more):
        overrides = [*small(random_gemma, more), *more]
        return Request(composed(*overrides), tmp_path / place, overrides)

    return make


def without_times(value):
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not any(time in k for time in TIMES)}
        return {key: without_times(item) for key, item in kept.items()}
    return value.numpy().tobytes() if isinstance(value, torch.Tensor) else value


def left(folder):
    """Read all that a run leaves, without times and places."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    record = json.loads((folder / "run.json").read_text())
    newest = from_file(max(folder.glob("checkpoints/step_*")))
    return {
        "sae": (folder / "sae" / "sae_weights.safetensors").read_bytes(),
        "metrics": [without_times(json.loads(line)) for line in lines],
        "results": without_times(json.loads((folder / "results.json").read_text())),
        "core": json.loads((folder / "eval" / "core.json").read_text()),
        "record": without_times({k: v for k, v in record.items() if k != "command"}),
        "checkpoint": without_times(newest),
    }


@pytest.mark.slow
def test_each_leaves_what_it_leaves_alone_and_the_text_is_read_once(
    request_for, tmp_path, monkeypatch
):
    passes = []
    real = LanguageModel._forward

    def forward(self, tokens):
        passes.append(len(tokens))
        return real(self, tokens)

    monkeypatch.setattr(LanguageModel, "_forward", forward)
    requests = [request_for(f"together/{name}", *options) for name, options in JOBS.items()]
    assert len({stream_of(request.cfg) for request in requests}) == 1
    endings = run_together(requests)
    together = len(passes)
    passes.clear()
    for (name, options), ending in zip(JOBS.items(), endings, strict=True):
        request = request_for(f"alone/{name}", *options)
        assert ending.error is None
        assert ending.objective == run_experiment(request.cfg, request.folder, console=QUIET)
        assert left(tmp_path / "together" / name) == left(request.folder)
    assert together < len(passes) / 2


def test_what_cannot_be_is_refused_alone_and_leaves_nothing(request_for, tmp_path):
    requests = [
        request_for("good"),
        request_for("bad", "sae.k=1000"),
        request_for("nowhere", "model.hook_name=blocks.9.hook_resid_post"),
        request_for("wild", "trainer.lr=1e30", "trainer.grad_clip=null"),
    ]
    good, bad, nowhere, wild = run_together(requests)
    assert good.error is None
    assert isinstance(bad.error, InvalidOption) and "sae.k=1000" in str(bad.error)
    assert not (tmp_path / "bad").exists()
    assert "hook_name='blocks.9.hook_resid_post': must be a layer" in str(nowhere.error)
    assert isinstance(wild.error, RunError) and "is not finite" in str(wild.error)
    record = json.loads((tmp_path / "wild" / "run.json").read_text())
    assert (record["status"], record["reason"]) == ("failed", str(wild.error))
    assert json.loads((tmp_path / "good" / "run.json").read_text())["objective"] == good.objective


def test_where_memory_is_short_they_follow_in_rounds(request_for, tmp_path, monkeypatch):
    """There is room for two trainings beside each other and not for three."""
    begun = []
    monkeypatch.setattr(memory, "free_memory", lambda device: None)
    run_together([request_for("one")])
    budget = json.loads((tmp_path / "one" / "run.json").read_text())["memory_budget_bytes"]
    source = sum(
        size for name, size in budget.items() if name in ("forward pass", "shuffle buffer")
    )
    own = (
        sum(
            size
            for name, size in budget.items()
            if "evaluation" not in name
            and name not in ("language model", "rest of the language model")
        )
        - source
    )
    free = Free(max(source + 2 * own + own // 2, 0))
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    real = JsonlLogger.rewind

    def rewind(self, step):
        begun.append(self.path.parent.name)
        real(self, step)

    monkeypatch.setattr(JsonlLogger, "rewind", rewind)
    finished = {}

    def finish(self, code):
        finished[self.path.parent.name] = list(begun)

    monkeypatch.setattr(JsonlLogger, "finish", finish)
    names = [f"job{n}" for n in range(5)]
    options = ["eval=none", "tracker.window_size=300"]
    endings = run_together([request_for(name, *options) for name in names])
    assert [ending.error for ending in endings] == [None] * 5
    assert finished["job0"] == ["job0", "job1"]
    assert finished["job2"] == ["job0", "job1", "job2", "job3"]


@pytest.mark.slow
def test_a_signal_stops_all_and_the_same_call_goes_on(request_for, tmp_path, monkeypatch):
    def requests():
        names = ("plain", "window", "short")
        return [request_for(f"stopped/{name}", *JOBS[name]) for name in names]

    real = JsonlLogger.log

    def log(self, step, metrics):
        real(self, step, metrics)
        if step == 12 and self.path.parent.name == "plain":
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(JsonlLogger, "log", log)
        with pytest.raises(Stopped):
            run_together(requests())
    for name in ("plain", "window", "short"):
        record = json.loads((tmp_path / "stopped" / name / "run.json").read_text())
        assert record["status"] == "stopped"
    endings = run_together(requests())
    assert [ending.error for ending in endings] == [None] * 3
    for name in ("plain", "window", "short"):
        request = request_for(f"alone/{name}", *JOBS[name])
        run_experiment(request.cfg, request.folder, console=QUIET)
        assert left(tmp_path / "stopped" / name)["sae"] == left(request.folder)["sae"]


def test_what_is_logged_of_one_is_logged_within_its_context(request_for, caplog):
    within, told = [None], []

    @contextmanager
    def about(number):
        within[0] = number
        yield
        within[0] = None

    class Handler(logging.Handler):
        def emit(self, record):
            told.append((within[0], record.getMessage()))

    logger, handler = logging.getLogger("temporal_sae"), Handler()
    logger.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, "temporal_sae"):
            run_together([request_for("a"), request_for("b", "tracker=off")], about)
    finally:
        logger.removeHandler(handler)
    idle = [number for number, line in told if "does nothing" in line]
    budgets = [number for number, line in told if line.startswith("memory (MiB)")]
    assert (idle, budgets) == ([1], [0, 1])


@pytest.mark.parametrize(
    ("change", "shares"),
    [
        ("tracker.window_size=7", True),
        ("sae.d_sae=32", True),
        ("trainer.num_tokens=4096", True),
        ("trainer.batch_size=64", False),
        ("model.hook_name=blocks.0.hook_resid_post", True),
        ("model.dtype=bfloat16", False),
        ("seed=3", False),
        ("activations.context_size=16", False),
        ("data.held_out_fraction=0.3", False),
    ],
)
def test_a_stream_is_that_of_its_source_batch_and_seed(change, shares):
    assert (stream_of(composed(change)) == stream_of(composed())) is shares


@pytest.fixture
def at_step_8(monkeypatch):
    """Calls a function of the run's folder at step 8 of each run."""
    real = JsonlLogger.log

    def put(function):
        def log(self, step, metrics):
            real(self, step, metrics)
            if step == 8:
                function(self.path.parent)

        monkeypatch.setattr(JsonlLogger, "log", log)

    return put


def test_one_whose_folder_is_replaced_ends_alone(request_for, tmp_path, at_step_8):
    def replace(folder):
        if folder.name == "lost":
            folder.rename(tmp_path / "moved")
            folder.touch()

    at_step_8(replace)
    lost, good = run_together([request_for("lost"), request_for("good")])
    assert "the folder was removed" in str(lost.error)
    assert good.error is None
    assert json.loads((tmp_path / "good" / "run.json").read_text())["status"] == "finished"


def test_a_second_is_counted_for_one_of_them_alone(request_for, tmp_path):
    began = time.monotonic()
    options = {"bad": ["sae.k=1000"], "a": [], "b": [], "longer": ["trainer.num_tokens=4096"]}
    run_together([request_for(name, *more) for name, more in options.items()])
    passed = time.monotonic() - began
    names = ("a", "b", "longer")
    records = [json.loads((tmp_path / name / "run.json").read_text()) for name in names]
    shared = [record["wall_seconds"] - record["training_seconds"] for record in records]
    assert shared == pytest.approx([shared[0]] * 3) and shared[0] > 0
    assert sum(record["wall_seconds"] for record in records) < passed


def test_the_reader_of_a_place_is_let_go_with_its_last_run(request_for, monkeypatch, at_step_8):
    readers, there = [], []
    real = SharedPasses.reader

    def reader(self, hook_name):
        made = real(self, hook_name)
        readers.append(weakref.ref(made))
        return made

    def look(folder):
        if folder.name == "long":
            gc.collect()
            there.append([reader() is not None for reader in readers])

    monkeypatch.setattr(SharedPasses, "reader", reader)
    at_step_8(look)
    short = ("model.hook_name=blocks.0.hook_resid_post", "trainer.num_tokens=256")
    endings = run_together([request_for("short", *short), request_for("long")])
    assert [ending.error for ending in endings] == [None, None]
    assert there == [[False, True]]


def test_an_end_is_told_at_once(request_for, at_step_8):
    told, before = [], []
    at_step_8(lambda folder: before.append([number for number, _ in told]))
    requests = [request_for("bad", "sae.k=1000"), request_for("good")]
    endings = run_together(requests, when_over=lambda number, end: told.append((number, end)))
    assert before == [[0]]  # the refused one, while the other trains
    assert told == [*enumerate(endings)]
