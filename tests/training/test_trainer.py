"""The training loop on activations held in memory."""

import logging
import signal

import pytest
import torch
from rich.console import Console

from temporal_sae.activations import ActivationBatch
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.loss import ConsecutiveLoss, OrthogonalityLoss
from temporal_sae.sae import StandardSAE, TopKSAE
from temporal_sae.tracker import CoActivationTracker, NoTracker
from temporal_sae.tracker.stability import StabilityMonitor
from temporal_sae.training import Checkpoints, JsonlLogger, Parts, ProgressDisplay, Stopped, Trainer
from temporal_sae.training.backward import backward
from temporal_sae.training.stopwatch import Stopwatch

D, F, K, B = 8, 32, 4, 64


class Synthetic:
    """Sparse mixtures of fixed directions; endless and resumable."""

    def __init__(self, stop_at=None, ordered=False):
        generator = torch.Generator().manual_seed(1)
        self.directions = torch.nn.functional.normalize(
            torch.randn(F, D, generator=generator), dim=-1
        )
        self.n, self.stop_at, self.ordered = 0, stop_at, ordered

    def __next__(self):
        generator = torch.Generator().manual_seed(self.n)
        self.n += 1
        if self.n == self.stop_at:
            signal.raise_signal(signal.SIGTERM)
        codes = torch.rand(B, F, generator=generator)
        x = (codes * (codes > 0.9)) @ self.directions + 0.1
        return ActivationBatch(x, (x.flip(0),) if self.ordered else ())

    def sample(self, n):
        return self.__class__().__next__().x[:n]

    def state_dict(self):
        return {"n": self.n}

    def load_state_dict(self, state):
        self.n = state["n"]


def make_parts(folder, sae=None, tracker=None, separation=None, batches=None, stability=True):
    torch.manual_seed(0)
    tracker = tracker or CoActivationTracker(F, window_size=100)
    return Parts(
        sae=sae or TopKSAE(D, F, K),
        batches=batches or Synthetic(),
        tracker=tracker,
        separation=separation or OrthogonalityLoss(),
        logger=JsonlLogger(folder),
        checkpoints=Checkpoints(folder / "checkpoints"),
        progress=ProgressDisplay(1, Console(quiet=True)),
        stability=StabilityMonitor(10)
        if stability and not isinstance(tracker, NoTracker)
        else None,
    )


def make_trainer(steps=30, **options):
    defaults = {"batch_size": B, "lr": 1e-2, "warmup_steps": 5, "log_every": 5}
    return Trainer(**{"num_tokens": steps * B, "checkpoint_every": 7, **defaults, **options})


def weights(parts):
    return {name: p.detach().clone() for name, p in parts.sae.named_parameters()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_it_learns_and_keeps_the_decoder_unit(tmp_path):
    parts = make_parts(tmp_path)
    run = make_trainer(steps=200).fit(parts)
    assert run.metrics["explained_variance"] > 0.8
    assert run.metrics["windows_closed"] == 200 * B // 100
    assert torch.allclose(parts.sae.W_dec.norm(dim=-1), torch.ones(F), atol=1e-5)


def test_the_penalty_lowers_the_overlap_of_co_active_latents(tmp_path):
    overlaps = []
    for weight in (0.0, 30.0):
        parts = make_parts(tmp_path / str(weight), separation=OrthogonalityLoss(weight))
        make_trainer(steps=100).fit(parts)
        with torch.no_grad():
            overlaps.append(float(OrthogonalityLoss(1.0)(parts.sae.W_dec, parts.tracker)))
    assert overlaps[1] < 0.7 * overlaps[0]


def test_zero_weight_is_the_plain_sae_to_the_bit(tmp_path):
    with_tracker = make_parts(tmp_path / "a", separation=OrthogonalityLoss(0.0))
    without = make_parts(tmp_path / "b", tracker=NoTracker(F))
    for parts in (with_tracker, without):
        make_trainer().fit(parts)
    assert same(weights(with_tracker), weights(without))


@pytest.mark.parametrize(
    "make_separation",
    [
        OrthogonalityLoss,
        lambda: OrthogonalityLoss(gram="activations", reduction="mean", ortho_weight=100.0),
        lambda: OrthogonalityLoss(estimator="sampled", sample_tokens=10, floor=1.0),
        ConsecutiveLoss,
    ],
)
def test_gradients_are_those_of_the_summed_loss(tmp_path, make_separation):
    """The penalty's backward pass runs apart, to be timed; the sum of both is the gradient."""
    parts = make_parts(tmp_path, separation=make_separation(), stability=False)
    first = torch.randint(F // 2, F, (200,))
    parts.tracker.update(torch.stack([first, first % (F // 2)], 1))
    x = next(parts.batches).x
    from temporal_sae.loss import reconstruction_loss
    from temporal_sae.sae import StepContext

    out = parts.sae.training_step(x, StepContext(0))
    main = reconstruction_loss("fvu", x, out.x_hat)
    penalty = backward(parts, main, out, Stopwatch(x.device))
    apart = {name: p.grad.clone() for name, p in parts.sae.named_parameters()}
    parts.sae.zero_grad()
    out = parts.sae.training_step(x, StepContext(0))
    whole = reconstruction_loss("fvu", x, out.x_hat)
    whole = whole + parts.separation(parts.sae.W_dec, parts.tracker, out.latents)
    whole.backward()
    assert float(penalty) > 0
    for name, p in parts.sae.named_parameters():
        assert torch.allclose(apart[name], p.grad, atol=1e-7), name


@pytest.mark.parametrize("architecture", ["topk", "standard"])
@pytest.mark.parametrize("stop_at", [3, 7, 20])
def test_stopped_and_continued_is_the_same_to_the_bit(tmp_path, architecture, stop_at):
    def make(folder, **options):
        torch.manual_seed(0)
        sae = TopKSAE(D, F, K) if architecture == "topk" else StandardSAE(D, F, 0.01)
        return make_parts(folder, sae=sae, **options)

    options = {"dead_after_tokens": 300}
    undisturbed = make(tmp_path / "a")
    make_trainer(**options).fit(undisturbed)
    stopped = make(tmp_path / "b", batches=Synthetic(stop_at))
    with pytest.raises(Stopped):
        make_trainer(**options).fit(stopped)
    continued = make(tmp_path / "b")
    run = make_trainer(**options).fit(continued)
    assert run.step == 30
    assert same(weights(undisturbed), weights(continued))
    assert torch.equal(undisturbed.tracker.weight_matrix(), continued.tracker.weight_matrix())
    lines = [(tmp_path / side / "metrics.jsonl").read_text().splitlines() for side in "ab"]
    assert len(lines[0]) == len(lines[1]) == 6


def test_resume_never_starts_again_and_leaves_its_own_checkpoints(tmp_path):
    first = make_parts(tmp_path)
    make_trainer().fit(first)
    again = make_parts(tmp_path, batches=Synthetic(stop_at=10))
    with pytest.raises(Stopped):
        make_trainer(resume="never").fit(again)
    assert again.batches.n == 10
    assert again.checkpoints.load_newest()["step"] == 10
    continued = make_parts(tmp_path)
    make_trainer().fit(continued)
    assert same(weights(first), weights(continued))


def test_logging_changes_nothing(tmp_path):
    """Also with dead latents, whose revival must not wait for a logged step."""
    runs = []
    for log_every in (3, 1000):
        parts = make_parts(tmp_path / str(log_every), sae=seeded_sae())
        parts.sae.b_enc.data[:8] = -1.0  # rarely among the largest k, but within AuxK's reach
        make_trainer(log_every=log_every, dead_after_tokens=200).fit(parts)
        runs.append(weights(parts))
    assert same(*runs)
    assert '"loss_auxk"' in (tmp_path / "3" / "metrics.jsonl").read_text()


def seeded_sae():
    torch.manual_seed(0)
    return TopKSAE(D, F, K)


def test_the_number_of_steps_is_that_of_whole_batches():
    assert Trainer(10_000_000).total_steps == 4882  # as in the reference runs
    assert Trainer(5_000_000).total_steps == 2441
    assert Trainer(1, warmup_steps=0).total_steps == 1


def test_ordered_stream_feeds_the_tracker_and_not_the_sae(tmp_path):
    plain = make_parts(tmp_path / "a", separation=OrthogonalityLoss(0.0))
    tracker = CoActivationTracker(F, window_size=100, stream="ordered")
    ordered = make_parts(
        tmp_path / "b",
        tracker=tracker,
        separation=OrthogonalityLoss(0.0),
        batches=Synthetic(ordered=True),
    )
    for parts in (plain, ordered):
        make_trainer().fit(parts)
    assert same(weights(plain), weights(ordered))
    assert tracker.tokens_seen == 30 * B
    assert not torch.equal(tracker.last_window, plain.tracker.last_window)


def test_a_penalty_that_does_nothing_is_noticed(tmp_path, caplog):
    parts = make_parts(tmp_path, separation=OrthogonalityLoss(1e-9))
    with caplog.at_level(logging.WARNING):
        make_trainer(steps=100).fit(parts)
    assert caplog.text.count("does next to nothing") == 1


def test_a_diverging_run_says_so(tmp_path):
    parts = make_parts(tmp_path)
    parts.sae.W_enc.data.fill_(float("nan"))
    with pytest.raises(RunError, match=r"trainer\.lr"):
        make_trainer().fit(parts)


@pytest.mark.parametrize(
    "options",
    [
        {"num_tokens": 0},
        {"batch_size": 0},
        {"lr": 0},
        {"lr": -1.0},
        {"warmup_steps": 31},
        {"decay_fraction": 1.1},
        {"grad_clip": 0},
        {"beta1": 1.0},
        {"reconstruction": "mse"},
        {"b_dec_init": "ones"},
        {"log_every": 0},
        {"checkpoint_every": 0},
        {"resume": "yes"},
    ],
)
def test_bad_options(options):
    with pytest.raises(InvalidOption, match=next(iter(options))):
        make_trainer(**options)
