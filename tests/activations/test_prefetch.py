"""Reading ahead changes nothing but the time, and leaves nothing behind."""

import gc
import json
import re
import signal
import threading
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from temporal_sae import train
from temporal_sae.activations import ActivationFiles, SyntheticActivations, WorldOptions, prefetch
from temporal_sae.activations.prefetch import Prefetched
from temporal_sae.activations.rows import EndOfRows, Rows
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.experiment import run_experiment
from temporal_sae.tracker import CoActivationTracker, NoTracker
from temporal_sae.training import Stopped
from tests.test_config_surface import composed

CPU = torch.device("cpu")
SECONDS = 5.0


class Counting:
    """Rows that hold their own number; fails once, or ends, in place of one of them."""

    def __init__(self, fails_at=None, ends_at=None):
        self.number, self.fails_at, self.ends_at = 0, fails_at, ends_at
        self.threads = []

    def read(self):
        self.threads.append(torch.get_num_threads())
        if self.number == self.ends_at:
            raise EndOfRows(self.number)
        if self.number == self.fails_at:
            self.fails_at = None
            raise RunError(f"number {self.number} is away")
        self.number += 1
        return Rows(torch.full((1, 1), float(self.number - 1)))

    def state_dict(self):
        return {"number": self.number}

    def load_state_dict(self, state):
        self.number = state["number"]


def numbers(reader, n):
    return [int(reader.read().x) for _ in range(n)]


def workers():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def wait_until(holds):
    end = time.monotonic() + SECONDS
    while not holds() and time.monotonic() < end:
        time.sleep(0.005)
    assert holds()


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    wait_until(lambda: not workers())


@pytest.fixture
def ahead():
    """Makes a reader that is closed at the end."""
    made = []

    def make(reader, n_chunks=3):
        made.append(Prefetched(reader, n_chunks, CPU))
        return made[-1]

    yield make
    for reader in made:
        reader.close()


@pytest.mark.parametrize("n_chunks", [1, 3])
def test_reads_so_far_ahead_and_no_farther(ahead, n_chunks):
    inner = Counting()
    reader = ahead(inner, n_chunks)
    assert inner.number == 0  # before anybody asks
    assert numbers(reader, 4) == [0, 1, 2, 3]
    wait_until(lambda: inner.number == 4 + n_chunks)
    time.sleep(0.05)
    assert inner.number == 4 + n_chunks


def test_the_state_is_that_of_the_rows_handed_out(ahead):
    inner = Counting()
    reader = ahead(inner)
    assert reader.state_dict() == {"number": 0}
    for n in range(1, 5):
        reader.read()
        wait_until(lambda n=n: inner.number == n + 3)
        assert reader.state_dict() == {"number": n}
    reader.load_state_dict({"number": 2})
    assert reader.state_dict() == {"number": 2}
    assert numbers(reader, 3) == [2, 3, 4]


def test_an_error_comes_in_the_place_of_the_rows_that_are_still_to_come(ahead):
    reader = ahead(Counting(fails_at=2))
    assert numbers(reader, 2) == [0, 1]
    with pytest.raises(RunError, match="number 2 is away"):
        reader.read()
    assert not workers()
    assert reader.state_dict() == {"number": 2}
    assert numbers(reader, 2) == [2, 3]


def test_the_end_is_told_behind_the_last_rows_and_each_time(ahead):
    reader = ahead(Counting(ends_at=2))
    assert numbers(reader, 2) == [0, 1]
    for _ in range(2):
        with pytest.raises(EndOfRows, match="after 2 rows"):
            reader.read()


def test_closed_it_has_no_thread_and_goes_on_with_the_rows_that_nobody_had(ahead):
    reader = ahead(Counting())
    numbers(reader, 2)
    reader.close()
    assert not workers()
    assert reader.state_dict() == {"number": 2}
    assert numbers(reader, 2) == [2, 3]


def test_a_reader_that_nobody_has_any_more_leaves_no_thread():
    reader = Prefetched(Counting(), 2, CPU)
    reader.read()
    assert len(workers()) == 1
    del reader
    gc.collect()
    assert not workers()


def test_the_thread_computes_with_as_many_threads_as_who_reads(ahead):
    """And not with as many as somebody else has chosen last, which a new thread would take."""
    usual = torch.get_num_threads()
    somebody = threading.Thread(target=torch.set_num_threads, args=(usual + 1,))
    somebody.start()
    somebody.join()
    try:
        inner = Counting()
        numbers(ahead(inner), 2)
    finally:
        torch.set_num_threads(usual)
    assert set(inner.threads) == {usual}


@pytest.mark.parametrize("value", [True, 1, "often", 0])
def test_several_processes_do_not_read_ahead(monkeypatch, value):
    monkeypatch.setattr(prefetch, "world_size", lambda: 2)
    with pytest.raises(InvalidOption, match="prefetch"):
        SyntheticActivations(prefetch=value).stream(32, 0)
    for silent in ("auto", False):
        assert not isinstance(
            SyntheticActivations(prefetch=silent).stream(32, 0).reader, Prefetched
        )


def test_what_is_read_ahead_is_in_the_memory_budget():
    def planned(value):
        source = SyntheticActivations(WorldOptions(d_in=8), prefetch=value)
        found = source.planned_bytes()
        return found.get("rows read ahead")

    assert planned(False) is None
    assert planned(3).n_bytes == 3 * 4096 * (8 * 4 + 12)


class Failing(NoTracker):
    def update(self, indices):
        raise RuntimeError("in the middle of a step")


def test_an_error_in_training_leaves_no_thread():
    source = SyntheticActivations(prefetch=True)
    with pytest.raises(RuntimeError, match="in the middle"):
        train(source, d_sae=64, k=4, num_tokens=10_000, tracker=Failing(64), progress=False)
    assert not workers()


def test_a_file_that_cannot_be_read_ends_training_where_it_would_have(tmp_path):
    x = np.random.default_rng(0).normal(size=(8192, 8)).astype(np.float32)
    x[7000] = np.nan
    np.save(tmp_path / "x.npy", x)
    told = []
    for value in (False, True):
        options = {"buffer_tokens": 512, "held_out_fraction": 0, "prefetch": value}
        source = ActivationFiles(str(tmp_path / "x.npy"), **options)
        with pytest.raises(RunError) as refused:
            train(source, d_sae=64, k=4, num_tokens=8000, batch_size=256, progress=False)
        told.append(str(refused.value))
    assert told[0] == told[1]
    assert "row 7000" in told[0] and re.search(r"; step \d+", told[0])


def run(folder, model, value):
    overrides = [
        f"model.name={model}",
        "model.hook_name=blocks.1.hook_resid_post",
        "activations.context_size=32",
        "activations.buffer_tokens=2048",
        f"activations.prefetch={value}",
        "sae.d_sae=64",
        "sae.k=4",
        "trainer.num_tokens=20000",
        "trainer.batch_size=512",
        "trainer.checkpoint_every=7",
        "tracker.window_size=500",
        "eval=none",
        "objective=final_loss",
    ]
    run_experiment(composed(*overrides), folder, overrides)
    return load_file(folder / "sae" / "sae_weights.safetensors")


@pytest.fixture(scope="module")
def plain(random_gemma, tmp_path_factory):
    return run(tmp_path_factory.mktemp("plain") / "run", random_gemma, "false")


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_a_run_that_reads_ahead_has_the_same_bits(plain, random_gemma, tmp_path):
    assert equal(plain, run(tmp_path / "ahead", random_gemma, "true"))
    assert not workers()
    assert (
        "rows read ahead"
        in json.loads((tmp_path / "ahead" / "run.json").read_text())["memory_budget_bytes"]
    )


@pytest.mark.parametrize(("before", "after"), [("true", "true"), ("true", "false"), ("1", "5")])
def test_so_has_one_that_is_stopped_and_continued(
    plain, random_gemma, tmp_path, monkeypatch, before, after
):
    update, steps = CoActivationTracker.update, []

    def update_and_stop(tracker, indices):
        steps.append(None)
        if len(steps) == 17:
            signal.raise_signal(signal.SIGINT)
        update(tracker, indices)

    monkeypatch.setattr(CoActivationTracker, "update", update_and_stop)
    with pytest.raises(Stopped):
        run(tmp_path / "ahead", random_gemma, before)
    assert not workers()
    assert equal(plain, run(tmp_path / "ahead", random_gemma, after))
