"""The training loop on activations held in memory."""

import copy
import json
import logging
import signal
import time

import pytest
import torch
from rich.console import Console

from temporal_sae.activations import ActivationBatch, Rows
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.kernels import buffer_pool
from temporal_sae.loss import ConsecutiveLoss, OrthogonalityLoss, reconstruction_loss
from temporal_sae.sae import (
    BatchTopKSAE,
    GatedSAE,
    JumpReLUSAE,
    ListaSAE,
    MatryoshkaSAE,
    StandardSAE,
    StepContext,
    TopKSAE,
)
from temporal_sae.sae.base import TRACKED_LATENTS
from temporal_sae.tracker import CoActivationTracker, NoTracker
from temporal_sae.tracker.stability import StabilityMonitor
from temporal_sae.training import Checkpoints, JsonlLogger, Parts, ProgressDisplay, Stopped, Trainer
from temporal_sae.training.backward import backward
from temporal_sae.training.dead import DeadLatents
from temporal_sae.training.stopwatch import Stopwatch

D, F, K, B = 8, 32, 4, 64
ARCHITECTURES = {
    "topk": lambda: TopKSAE(D, F, K),
    "batch_topk": lambda: BatchTopKSAE(D, F, K),
    "matryoshka": lambda: MatryoshkaSAE(D, F, K, group_fractions=[0.25, 0.25, 0.5]),
    "lista": lambda: ListaSAE(D, F, K, group_fractions=[0.25, 0.25, 0.5], learn_step_size=True),
    "standard": lambda: StandardSAE(D, F, 0.01, resample_every=6),
    "standard_free": lambda: StandardSAE(D, F, 0.01, decoder="free", resample_every=6),
    "jumprelu": lambda: JumpReLUSAE(D, F, 4.0, initial_threshold=0.2, bandwidth=0.2),
    "gated": lambda: GatedSAE(D, F, 0.01),
}


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
        return ActivationBatch(Rows(x), (Rows(x.flip(0)),) if self.ordered else ())

    def sample(self, n):
        return Synthetic().__next__().x[:n]

    def metrics(self):
        return {}

    def state_dict(self):
        return {"n": self.n}

    def load_state_dict(self, state):
        self.n = state["n"]


def make_parts(folder, sae=None, tracker=None, penalty=None, batches=None, stability=True):
    torch.manual_seed(0)
    tracker = tracker or CoActivationTracker(F, window_size=100)
    return Parts(
        sae=sae or TopKSAE(D, F, K),
        batches=batches or Synthetic(),
        tracker=tracker,
        penalty=penalty or OrthogonalityLoss(),
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


class SlowMonitor(StabilityMonitor):
    def observe(self, tracker, W_dec):
        time.sleep(0.05)
        return super().observe(tracker, W_dec)


def test_looks_at_stability_count_as_the_trackers_time(tmp_path):
    parts = make_parts(tmp_path)
    parts.stability = SlowMonitor(10)
    run = make_trainer(steps=20).fit(parts)
    assert run.stopwatches["tracker"].seconds() >= 4 * 0.05
    assert run.metrics["seconds_tracker"] >= 4 * 0.05  # the last look is in the last line


def test_it_learns_and_keeps_the_decoder_unit(tmp_path):
    parts = make_parts(tmp_path)
    run = make_trainer(steps=200).fit(parts)
    assert run.metrics["explained_variance"] > 0.8
    assert run.metrics["windows_closed"] == 200 * B // 100
    assert torch.allclose(parts.sae.W_dec.norm(dim=-1), torch.ones(F), atol=1e-5)


def test_the_penalty_lowers_the_overlap_of_co_active_latents(tmp_path):
    overlaps = []
    for weight in (0.0, 30.0):
        parts = make_parts(tmp_path / str(weight), penalty=OrthogonalityLoss(weight))
        make_trainer(steps=100).fit(parts)
        with torch.no_grad():
            overlaps.append(float(OrthogonalityLoss(1.0)(parts.sae.W_dec, parts.tracker)))
    assert overlaps[1] < 0.7 * overlaps[0]


def test_zero_weight_is_the_plain_sae_to_the_bit(tmp_path):
    with_tracker = make_parts(tmp_path / "a", penalty=OrthogonalityLoss(0.0))
    without = make_parts(tmp_path / "b", tracker=NoTracker(F))
    for parts in (with_tracker, without):
        make_trainer().fit(parts)
    assert same(weights(with_tracker), weights(without))


@pytest.mark.parametrize(
    "make_penalty",
    [
        OrthogonalityLoss,
        lambda: OrthogonalityLoss(gram="activations", reduction="mean", ortho_weight=100.0),
        lambda: OrthogonalityLoss(estimator="sampled", sample_tokens=10, floor=1.0),
        ConsecutiveLoss,
    ],
)
@pytest.mark.parametrize("architecture", ["topk", "lista"])  # whose encoder reads the decoder
def test_gradients_are_those_of_the_summed_loss(tmp_path, make_penalty, architecture):
    """The penalty's backward pass runs apart, to be timed; the sum of both is the gradient."""
    sae = ARCHITECTURES[architecture]()
    parts = make_parts(tmp_path, sae=sae, penalty=make_penalty(), stability=False)
    first = torch.randint(F // 2, F, (200,))
    parts.tracker.update(torch.stack([first, first % (F // 2)], 1))
    x = next(parts.batches).x
    out = parts.sae.training_step(x, StepContext(0))
    main = reconstruction_loss("fvu", x, out.x_hat)
    penalty = backward(parts, main, out, Stopwatch(x.device))
    apart = {name: p.grad.clone() for name, p in parts.sae.named_parameters()}
    parts.sae.zero_grad()
    out = parts.sae.training_step(x, StepContext(0))
    whole = reconstruction_loss("fvu", x, out.x_hat)
    whole = whole + parts.penalty(parts.sae.W_dec, parts.tracker, out.latents)
    whole.backward()
    assert float(penalty) > 0
    for name, p in parts.sae.named_parameters():
        assert torch.allclose(apart[name], p.grad, atol=1e-7), name


class Watched(Synthetic):
    """Looks at the decoder between any two steps."""

    def __init__(self, sae, **options):
        super().__init__(**options)
        self.sae = sae

    def __next__(self):
        lengths = self.sae.W_dec.detach().norm(dim=-1)
        assert torch.allclose(lengths, torch.ones(F), atol=1e-6) or not self.sae.unit_decoder
        return super().__next__()


@pytest.mark.parametrize("step", ["sparse", "dense"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_learns_with_the_penalty(tmp_path, architecture, step):
    torch.manual_seed(0)
    sae = ARCHITECTURES[architecture]()
    parts = make_parts(tmp_path, sae=sae, batches=Watched(sae))
    run = make_trainer(steps=20, log_every=1, step=step, dead_after_tokens=300).fit(parts)
    logged = [json.loads(line) for line in parts.logger.path.read_text().splitlines()]
    first, last = (
        sum(line["explained_variance"] for line in part) for part in (logged[:3], logged[-3:])
    )
    assert last > first + 0.1
    assert run.metrics["windows_closed"] == 20 * B // 100
    assert run.metrics["loss_orthogonality"] > 0
    lengths = sae.W_dec.detach().norm(dim=-1)
    assert torch.allclose(lengths, torch.ones(F), atol=1e-6) == sae.unit_decoder


def test_reconstructions_may_have_the_shape_of_a_gradient(tmp_path, monkeypatch):
    trained = []
    for smallest in (0, 2**40):  # from which size on the memory of gradients is used again
        monkeypatch.setattr(buffer_pool, "LEAST_BYTES", smallest)
        torch.manual_seed(0)
        parts = make_parts(tmp_path / str(smallest), TopKSAE(D, B, K), NoTracker(B))
        make_trainer(steps=10, step="sparse").fit(parts)
        trained.append(weights(parts))
    assert same(*trained)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sparse_and_dense_runs_agree(tmp_path, architecture):
    runs = []
    for step in ("sparse", "dense", "auto"):
        torch.manual_seed(0)
        parts = make_parts(tmp_path / step, sae=ARCHITECTURES[architecture]())
        make_trainer(steps=5, step=step, warmup_steps=0, lr=1e-3).fit(parts)
        runs.append(weights(parts))
    for other in runs[1:]:
        for name, expected in runs[0].items():
            # Adam's step is the full rate wherever a gradient is not 0, however small.
            near = (other[name] - expected).abs() < 1e-4
            assert near.float().mean() > 0.98, name


@pytest.mark.parametrize(("precision", "stops"), [("float32", (3, 20)), ("bfloat16", (20,))])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_stopped_and_continued_is_the_same_to_the_bit(tmp_path, architecture, precision, stops):
    """With latents that die, are pulled at by AuxK, or are made anew."""

    def make(folder, **options):
        torch.manual_seed(0)
        sae = ARCHITECTURES[architecture]()
        sae.b_enc.data[::3] = -1.5
        parts = make_parts(folder, sae=sae, **options)
        torch.manual_seed(1)
        return parts

    options = {"dead_after_tokens": 200, "precision": precision}
    undisturbed = make(tmp_path / "whole")
    whole = make_trainer(**options).fit(undisturbed)
    expected = metrics_of(tmp_path / "whole")
    assert max(line["dead_share"] for line in expected) > 0
    assert any("loss_auxk" in line for line in expected) == hasattr(undisturbed.sae, "k_aux")
    for stop_at in stops:
        stopped = make(tmp_path / str(stop_at), batches=Synthetic(stop_at))
        with pytest.raises(Stopped):
            make_trainer(**options).fit(stopped)
        continued = make(tmp_path / str(stop_at))
        torch.manual_seed(2)  # what was drawn since must not matter
        run = make_trainer(**options).fit(continued)
        assert run.step == 30
        assert same(weights(undisturbed), weights(continued))
        assert equal_states(undisturbed.sae.state_dict(), continued.sae.state_dict())
        assert equal_states(whole.optimizer.state_dict(), run.optimizer.state_dict())
        assert equal_states(whole.dead.state_dict(), run.dead.state_dict())
        ours, theirs = undisturbed.tracker, continued.tracker
        assert torch.equal(ours.weight_matrix(), theirs.weight_matrix())
        assert metrics_of(tmp_path / str(stop_at)) == expected


def test_sigterm_in_a_batch_job_saves_and_training_goes_on(tmp_path):
    """A preempted job that ended by itself would not be queued again."""
    before = signal.signal(signal.SIGUSR2, lambda number, frame: None)
    try:
        parts = make_parts(tmp_path, batches=Synthetic(stop_at=13))
        assert make_trainer(checkpoint_every=1000).fit(parts).step == 30
    finally:
        signal.signal(signal.SIGUSR2, before)
    steps = [path.name.split(".")[0] for path in parts.checkpoints.files()]
    assert steps == ["step_000000030", "step_000000013"]


def metrics_of(folder):
    """Logged lines without what the clock measured."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "second" not in k} for line in lines]


def equal_states(ours, theirs):
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(
            equal_states(ours[key], theirs[key]) for key in ours
        )
    return torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs


class Silencing(Synthetic):
    """From the sixth batch on some latents of an SAE cannot fire any more."""

    def __init__(self, sae, silent):
        super().__init__()
        self.sae, self.silent = sae, silent

    def __next__(self):
        if self.n == 5:
            self.sae.b_enc.data[self.silent] = -100.0
        return super().__next__()


def test_resampled_latents_forget_their_past(tmp_path):
    """After 12 steps, at the second time that it is due, some latents are made anew."""
    torch.manual_seed(0)
    sae = StandardSAE(D, F, 0.01, resample_every=6)
    silent = torch.arange(F) < 4
    parts = make_parts(
        tmp_path, sae=sae, penalty=OrthogonalityLoss(0.0), batches=Silencing(sae, silent)
    )
    run = make_trainer(steps=12, dead_after_tokens=6 * B).fit(parts)
    assert (sae.b_enc[silent] == 0).all()
    averages = run.optimizer.state_dict()
    for average in (averages["mean"], averages["square"]):
        assert (average["W_enc"][:, silent] == 0).all()
        assert (average["W_dec"][silent] == 0).all()
        assert (average["b_enc"][silent] == 0).all()
        assert (average["W_enc"][:, ~silent] != 0).any()
    assert not run.dead.mask()[silent].any()
    assert torch.allclose(sae.W_dec.norm(dim=-1), torch.ones(F), atol=1e-6)
    living = sae.W_enc.detach().norm(dim=0)[~silent].mean()
    # of their mean when the step was done; here alone the dead ones do not count
    assert torch.allclose(sae.W_enc[:, silent].norm(dim=0), 0.2 * living)


def test_dead_latents_are_counted_in_tokens_by_what_fired():
    dead = DeadLatents(3, after_tokens=4, device=torch.device("cpu"))
    fired = torch.tensor([True, False, False])
    for expected in ([False] * 3, [False, True, True], [False, True, True]):
        dead.update(fired, 2)
        assert dead.mask().tolist() == expected
    dead.update(torch.tensor([False, True, False]), 1)
    assert dead.mask().tolist() == [False, False, True]
    assert float(dead.share()) == pytest.approx(1 / 3)
    dead.forget(torch.tensor([False, False, True]))
    assert dead.mask_if_any() is None
    again = DeadLatents(3, after_tokens=4, device=torch.device("cpu"))
    again.load_state_dict(dead.state_dict())
    for counter in (dead, again):
        counter.update(torch.tensor([False, True, False]), 3)
        assert counter.mask_if_any().tolist() == [True, False, False]


def test_a_latent_beyond_what_the_tracker_sees_is_not_dead(tmp_path):
    """More are active than are handed on as latents; all of them count as having fired."""
    torch.manual_seed(0)
    sae = StandardSAE(D, 600, 0.0)
    sae.b_enc.data.fill_(5.0)
    parts = make_parts(tmp_path, sae=sae, tracker=NoTracker(600))
    run = make_trainer(steps=3, warmup_steps=0, lr=1e-4, dead_after_tokens=B).fit(parts)
    assert run.metrics["l0"] == 600
    assert run.metrics["dead_share"] == 0


@pytest.mark.parametrize("stream", ["shuffled", "ordered"])
def test_the_tracker_sees_at_most_so_many_latents_of_a_token(tmp_path, stream):
    """Pairs grow with their square: of an SAE that is dense at first there would be millions."""

    class Recording(CoActivationTracker):
        widest = 0

        def update(self, indices):
            self.widest = max(self.widest, indices.shape[1])
            super().update(indices)

    torch.manual_seed(0)
    sae = StandardSAE(D, 600, 0.0)
    sae.b_enc.data.fill_(5.0)
    tracker = Recording(600, window_size=100, stream=stream)
    batches = Synthetic(ordered=stream == "ordered")
    parts = make_parts(tmp_path, sae=sae, tracker=tracker, batches=batches)
    make_trainer(steps=2, warmup_steps=0, lr=1e-4).fit(parts)
    assert tracker.widest == TRACKED_LATENTS


def test_what_the_batches_measure_is_logged(tmp_path):
    class Measured(Synthetic):
        def metrics(self):
            return {"outlier_share": torch.tensor(0.25)}

    parts = make_parts(tmp_path, batches=Measured())
    assert make_trainer(steps=5).fit(parts).metrics["outlier_share"] == 0.25
    assert '"outlier_share": 0.25' in parts.logger.path.read_text()


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
    plain = make_parts(tmp_path / "a", penalty=OrthogonalityLoss(0.0))
    tracker = CoActivationTracker(F, window_size=100, stream="ordered")
    ordered = make_parts(
        tmp_path / "b",
        tracker=tracker,
        penalty=OrthogonalityLoss(0.0),
        batches=Synthetic(ordered=True),
    )
    for parts in (plain, ordered):
        make_trainer().fit(parts)
    assert same(weights(plain), weights(ordered))
    assert tracker.tokens_seen == 30 * B
    assert not torch.equal(tracker.last_window, plain.tracker.last_window)


def test_ordered_tokens_reach_the_tracker_in_their_order(tmp_path):
    """In chunks that are as long as they come, one after the other."""

    class Chunked(Synthetic):
        def __next__(self):
            batch = super().__next__()
            return ActivationBatch(batch.rows, tuple(map(Rows, batch.x.split([10, 5, B - 15]))))

    class Recording(CoActivationTracker):
        def update(self, indices):
            seen.append(indices.sort().values)
            super().update(indices)

    seen = []
    tracker = Recording(F, window_size=100, stream="ordered")
    parts = make_parts(tmp_path, tracker=tracker, batches=Chunked())
    before = copy.deepcopy(parts.sae)  # what the tracker sees is encoded before the step
    make_trainer(steps=1, b_dec_init="zeros", encoder_init="tied", warmup_steps=0).fit(parts)
    x = next(Synthetic()).x
    assert torch.equal(torch.cat(seen), before.encode(x).active_indices().sort().values)


def test_a_continued_run_warns_of_a_penalty_that_does_nothing_when_the_whole_does(tmp_path, caplog):
    """Ten logged steps in a row, some before and some after a stop."""

    def train(folder, batches):
        parts = make_parts(folder, penalty=OrthogonalityLoss(1e-9), batches=batches)
        return make_trainer(steps=16, log_every=1).fit(parts)

    whole = train(tmp_path / "whole", Synthetic())
    assert caplog.text.count("does next to nothing") == 1
    with pytest.raises(Stopped):
        train(tmp_path / "stopped", Synthetic(stop_at=8))
    assert caplog.text.count("does next to nothing") == 1
    continued = train(tmp_path / "stopped", Synthetic())
    assert caplog.text.count("does next to nothing") == 2
    assert continued.steps_negligible == whole.steps_negligible


def test_a_penalty_that_does_nothing_is_noticed(tmp_path, caplog):
    parts = make_parts(tmp_path, penalty=OrthogonalityLoss(1e-9))
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
        {"decay_fraction": 1.1},
        {"grad_clip": 0},
        {"beta1": 1.0},
        {"eps": -1},
        {"reconstruction": "mse"},
        {"b_dec_init": "ones"},
        {"dead_after_tokens": 0},
        {"precision": "float16"},
        {"step": "fast"},
        {"encoder": "fast"},
        {"encoder": "screened", "step": "dense"},
        {"encoder": "screened", "precision": "bfloat16"},
        {"compile": "yes"},
        {"compile": True},
        {"log_every": 0},
        {"checkpoint_every": 0},
        {"resume": "yes"},
    ],
)
def test_bad_options(options):
    with pytest.raises(InvalidOption, match=next(iter(options))):
        make_trainer(**options)


@pytest.mark.parametrize("architecture", [StandardSAE, GatedSAE, ListaSAE])
def test_latents_that_are_not_the_largest_are_not_screened(architecture):
    options = {"k": 4} if architecture is ListaSAE else {}
    trainer = make_trainer(encoder="screened")
    with pytest.raises(
        InvalidOption, match=r"^encoder='screened': must be auto or dense with sae="
    ):
        trainer.check(architecture(16, 64, **options))
    trainer.check(TopKSAE(16, 64, 4))


def test_a_warm_up_longer_than_the_run_is_told_what_follows_its_length():
    told = r"^warmup_steps=31: must be at most the 30 .*; trainer\.warmup_steps=null follows"
    with pytest.raises(InvalidOption, match=told):
        make_trainer(steps=30, warmup_steps=31)
    assert make_trainer(steps=19, warmup_steps=None).warmup_steps == 0
