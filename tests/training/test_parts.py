"""The smaller parts of training."""

import copy
import json
import logging
import os
import signal
import time
from importlib import import_module

import numba
import numpy as np
import pytest
import torch

from temporal_sae import distributed
from temporal_sae.sae import JumpReLUSAE, StandardSAE, TopKSAE
from temporal_sae.signals import Terminated
from temporal_sae.training import JsonlLogger
from temporal_sae.training.dead import DeadLatents
from temporal_sae.training.initial import fit_encoder, geometric_median
from temporal_sae.training.interrupts import StopRequest
from temporal_sae.training.schedule import learning_rate_factor
from temporal_sae.training.stopwatch import Clock, Stopwatch
from temporal_sae.training.wandb_logger import has_wandb_key

CPU = torch.device("cpu")


def test_learning_rate_warms_up_stays_and_decays():
    rates = [learning_rate_factor(s, 100, 10, 0.2) for s in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:81] == [1.0] * 72
    assert rates[90] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.05)
    assert learning_rate_factor(0, 10, 0, 0.0) == 1.0


def test_geometric_median_ignores_an_outlier():
    points = torch.cat([torch.randn(200, 3) * 0.1 + 5, torch.full((20, 3), 1e4)])
    median = geometric_median(points)
    assert torch.allclose(median, torch.full((3,), 5.0), atol=0.1)


def test_geometric_median_of_a_triangle_minimises_the_distance():
    points = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 3.0]])
    median = geometric_median(points, iterations=1000)
    best = (points - median).norm(dim=-1).sum()
    for nudge in torch.randn(50, 2) * 0.05:
        assert (points - median - nudge).norm(dim=-1).sum() >= best - 1e-4


def test_dead_latents_are_counted_in_tokens_and_only_activity_counts():
    dead = DeadLatents(3, after_tokens=4, device=CPU)
    for expected in ([False] * 3, [False, True, True], [False, True, True]):
        dead.update(torch.tensor([True, False, False]), tokens=2)
        assert dead.mask().tolist() == expected
    dead.update(torch.tensor([False, True, False]), tokens=1)
    assert dead.mask().tolist() == [False, False, True]
    assert float(dead.share()) == pytest.approx(1 / 3)
    dead.forget(torch.tensor([False, False, True]))
    assert dead.mask_if_any() is None


def test_jsonl_rewind_drops_later_and_broken_lines(tmp_path):
    logger = JsonlLogger(tmp_path)
    logger.rewind(0)
    for step in (10, 20, 30):
        logger.log(step, {"loss": step / 10})
    with logger.path.open("a") as file:
        file.write('{"step": 40, "lo')
    logger.rewind(20)
    lines = [json.loads(line) for line in logger.path.read_text().splitlines()]
    assert lines == [{"step": 10, "loss": 1.0}, {"step": 20, "loss": 2.0}]


def test_signals_become_a_request_and_a_second_ctrl_c_interrupts():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert stop.signal is None
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert stop.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        assert stop.agreed() == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_twice_is_one_request_unless_a_step_hangs(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with pytest.raises(Terminated), StopRequest():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        now[0] += 60
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_after_the_last_step_means_what_it_means_outside():
    came = []
    before = signal.signal(signal.SIGHUP, lambda number, frame: came.append(number))
    try:
        with StopRequest():
            signal.raise_signal(signal.SIGHUP)
            assert came == []
        assert came == [signal.SIGHUP]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_preemption_waits_and_is_handed_on_to_the_handler_before():
    called = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: called.append(number))
    try:
        with StopRequest() as stop:
            assert stop.agreed() is None
            signal.raise_signal(signal.SIGUSR2)
            assert stop.agreed() == signal.SIGUSR2
            assert called == []
            stop.hand_on()
            assert called == [signal.SIGUSR2]
            assert stop.agreed() is None
            signal.raise_signal(signal.SIGUSR2)
            signal.raise_signal(signal.SIGINT)
            assert stop.agreed() == signal.SIGINT  # to stop is more than to be interrupted
            assert stop.ends(signal.SIGINT)
        assert called == [signal.SIGUSR2] * 2  # the one that nobody has handed on
    finally:
        signal.signal(signal.SIGUSR2, before)


@pytest.fixture
def batch_job():
    """A process that something puts back into the queue when SIGUSR2 comes."""
    before = signal.signal(signal.SIGUSR2, lambda number, frame: None)
    yield
    signal.signal(signal.SIGUSR2, before)


@pytest.mark.usefixtures("batch_job")
def test_in_a_batch_job_sigterm_asks_for_a_checkpoint_and_may_come_again():
    with StopRequest() as stop:
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
            assert stop.agreed() == signal.SIGTERM
            assert not stop.ends(signal.SIGTERM)
            assert stop.agreed() is None
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR2)
        assert stop.agreed() == signal.SIGUSR2
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stop.agreed() == signal.SIGINT
        stop.hand_on()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_exchange_is_told_at_the_next(number, monkeypatch):
    def meanwhile(*numbers):
        signal.raise_signal(number)
        return numbers

    with StopRequest() as stop:
        with monkeypatch.context() as patch:
            patch.setattr(distributed, "all_reduce_max", meanwhile)
            assert stop.agreed() is None
        assert stop.agreed() == number


def test_a_preemption_that_nobody_handles_is_left_alone():
    """Without a handler of a cluster the signal means what it means to the system."""
    with StopRequest():
        assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL


def test_stopwatch_adds_up_and_continues():
    watch = Stopwatch(CPU)
    for _ in range(2):
        with watch.running():
            time.sleep(0.02)
    assert 0.04 <= watch.seconds() < 0.5
    watch.restart(10.0)
    assert watch.seconds() == 10.0


def test_no_clock_runs_while_kernels_are_compiled(caplog):
    import_module("temporal_sae.kernels.threads")  # brings the compiler
    watch, clock = Stopwatch(CPU), Clock(seconds=5.0)
    before = time.perf_counter()
    with caplog.at_level(logging.INFO, "temporal_sae"), watch.running(), clock.running():
        numba.njit(lambda x: x[0] + 1)(np.arange(3.0))
    compiling = time.perf_counter() - before
    assert watch.seconds() < compiling / 2
    assert clock.seconds() < 5 + compiling / 2


def test_a_rate_is_that_since_the_last_one():
    clock = Clock(seconds=1000.0, tokens=500)
    rates = []
    for tokens, seconds in ((600, 0.02), (700, 0.2), (1700, 0.02)):
        with clock.running():
            time.sleep(seconds)
        rates.append(clock.tokens_per_second(tokens))
    assert 100 < rates[0] <= 100 / 0.02
    assert rates[1] <= 100 / 0.2
    assert 1000 < rates[2] <= 1000 / 0.02


def test_a_clock_stands_still_between_its_blocks_and_takes_what_is_added():
    clock = Clock(seconds=1000.0)
    with clock.running():
        time.sleep(0.02)
        within = clock.seconds()
    counted = clock.seconds()
    time.sleep(0.02)
    assert 1000.02 <= within <= counted == clock.seconds()
    clock.add(-1000.0)
    assert clock.seconds() == counted - 1000.0


def test_wandb_goes_online_only_with_a_key(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert not has_wandb_key()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert has_wandb_key()
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert has_wandb_key()


@pytest.mark.parametrize(
    "sae", [TopKSAE(16, 256, k=8), StandardSAE(16, 256), JumpReLUSAE(16, 256, initial_threshold=0)]
)
def test_a_fitted_encoder_reconstructs_best_of_its_multiples(sae):
    x = torch.randn(200, 16) + 3
    sae.b_dec.data.copy_(x.mean(0))
    fit_encoder(sae, x)

    def error(factor):
        other = copy.deepcopy(sae)
        other.W_enc.data.mul_(factor)
        return float((x - other(x)).square().sum().detach())

    assert error(1.0) < min(error(0.95), error(1.05))
    assert error(1.0) < float((x - sae.b_dec).square().sum())


def test_an_encoder_that_cannot_be_fitted_stays():
    sae = TopKSAE(4, 8, k=2)
    before = sae.W_enc.detach().clone()
    fit_encoder(sae, torch.zeros(5, 4))
    assert torch.equal(sae.W_enc, before)
