"""What needs a card: run with `python -m pytest tests/gpu` on a machine with CUDA."""

import copy

import pytest
import torch
from rich.console import Console

from temporal_sae.activations import ActivationBatch, Rows
from temporal_sae.errors import RunError
from temporal_sae.loss import (
    ChunkedOrthogonalityLoss,
    ConsecutiveLoss,
    ConsistencyLoss,
    OrthogonalityLoss,
)
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
from temporal_sae.tracker import CoActivationTracker, all_weightings
from temporal_sae.training import Checkpoints, JsonlLogger, Parts, ProgressDisplay, Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

D, F, K, B = 64, 512, 8, 256


ARCHITECTURES = {
    "topk": lambda: TopKSAE(D, F, K),
    "batch_topk": lambda: BatchTopKSAE(D, F, K),
    "lista": lambda: ListaSAE(D, F, K, n_corrections=2),
    "matryoshka": lambda: MatryoshkaSAE(D, F, K),
    "standard": lambda: StandardSAE(D, F, resample_every=2),
    "jumprelu": lambda: JumpReLUSAE(D, F, l0_target=K),
    "gated": lambda: GatedSAE(D, F),
}


class Noise:
    """Batches made on the card."""

    def __next__(self):
        return ActivationBatch(Rows(torch.randn(B, D, device="cuda")))

    def sample(self, n):
        return torch.randn(n, D, device="cuda")

    def metrics(self):
        return {}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class NotANumber(Noise):
    def __next__(self):
        return ActivationBatch(Rows(torch.full((B, D), float("nan"), device="cuda")))


def random_indices(tokens=3000):
    return torch.stack([torch.randperm(F)[:K] for _ in range(tokens)])


def test_the_tracker_is_the_same_on_both_devices():
    options = {"window_size": 700, "totals_from": 0, "stream": "permuted", "permuted_tokens": 300}
    trackers = [CoActivationTracker(F, device=d, **options) for d in ("cpu", "cuda")]
    indices = random_indices()
    for tracker in trackers:
        for piece in indices.split(256):
            tracker.update(piece.to(tracker.device))
    on_cpu, on_gpu = trackers
    assert torch.equal(on_cpu.rate_matrix(), on_gpu.rate_matrix().cpu())
    for weighting in all_weightings():
        torch.testing.assert_close(
            on_gpu.weight_matrix(weighting).cpu(),
            on_cpu.weight_matrix(weighting),
            rtol=1e-6,
            atol=0,
        )


def test_a_tracker_built_before_the_move_takes_what_is_on_the_card():
    """Built on the CPU, fed with indices on the card, asked by a decoder on the card."""
    tracker, W_dec, indices = CoActivationTracker(F), torch.randn(F, D), random_indices()
    expected = CoActivationTracker(F)
    expected.update(indices)
    tracker.update(indices.cuda())
    i, j = torch.arange(F - 1), torch.arange(1, F)
    weights = tracker.weight(i.cuda(), j.cuda())
    assert weights.device.type == "cuda"
    assert torch.equal(weights.cpu(), expected.weight(i, j))
    for estimator in ("exact", "sampled"):
        loss = OrthogonalityLoss(estimator=estimator)
        on_card = loss(W_dec.cuda(), tracker)
        assert on_card.item() == pytest.approx(loss(W_dec, expected).item(), rel=1e-4)


@pytest.mark.parametrize("storage", ["dense", "sparse"])
def test_a_state_moves_to_the_card_and_back(storage):
    indices = random_indices()
    on_cpu = CoActivationTracker(F, window_size=700, storage=storage)
    on_gpu = CoActivationTracker(F, window_size=700, storage=storage, device="cuda")
    back = CoActivationTracker(F, window_size=700, storage=storage)
    on_cpu.update(indices[:1500])
    on_gpu.load_state_dict(on_cpu.state_dict())
    on_gpu.update(indices[1500:2500].cuda())
    back.load_state_dict(on_gpu.state_dict())
    back.update(indices[2500:])
    on_cpu.update(indices[1500:])
    assert torch.equal(back.weight_matrix("long_average"), on_cpu.weight_matrix("long_average"))


@pytest.mark.parametrize("estimator", ["exact", "sampled"])
def test_the_penalty_and_its_gradient_are_the_same_on_both_devices(estimator):
    W_dec, indices = torch.randn(F, D), random_indices()
    values, gradients = [], []
    for device in ("cpu", "cuda"):
        tracker = CoActivationTracker(F, device=device)
        tracker.update(indices.to(device))
        weights = W_dec.to(device).requires_grad_()
        loss = OrthogonalityLoss(estimator=estimator, sample_tokens=1000)  # the whole window
        value = loss(weights, tracker)
        value.backward()
        values.append(value.item())
        gradients.append(weights.grad.cpu())
    assert values[1] == pytest.approx(values[0], rel=1e-4)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-6)


def parts_on_the_card(folder, sae, penalty):
    return Parts(
        sae=sae.cuda(),
        batches=Noise(),
        tracker=CoActivationTracker(F, window_size=500, device="cuda"),
        penalty=penalty,
        logger=JsonlLogger(folder),
        checkpoints=Checkpoints(folder / "checkpoints"),
        progress=ProgressDisplay(1, Console(quiet=True)),
    )


def assert_no_step_waits(parts, **options):
    trainer = Trainer(100 * B, batch_size=B, warmup_steps=0, log_every=1000, **options)
    run = trainer.start(parts)
    for _ in range(3):
        trainer.step(parts, run)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(10):
            trainer.step(parts, run)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert run.step == 13
    run.health.raise_if_not_finite()


@pytest.mark.parametrize(
    "penalty",
    [
        OrthogonalityLoss(),
        OrthogonalityLoss(permuted=True),
        ConsecutiveLoss(),
        ChunkedOrthogonalityLoss(),
        ConsistencyLoss(interval=1),
    ],
)
def test_no_step_waits_for_the_card_but_the_logged_ones(tmp_path, penalty):
    assert_no_step_waits(parts_on_the_card(tmp_path, TopKSAE(D, F, K), penalty))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_step_of_any_architecture_waits(tmp_path, name, precision):
    """Also while latents are dead and, with standard, made anew."""
    parts = parts_on_the_card(tmp_path, ARCHITECTURES[name](), OrthogonalityLoss())
    assert_no_step_waits(parts, precision=precision, dead_after_tokens=2 * B)


@pytest.mark.parametrize("step", ["sparse", "dense"])
def test_a_topk_step_waits_neither_way(tmp_path, step):
    assert_no_step_waits(
        parts_on_the_card(tmp_path, TopKSAE(D, F, K), OrthogonalityLoss()), step=step
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_step_is_the_same_on_both_devices_and_both_ways(name):
    torch.manual_seed(0)
    sae, x = ARCHITECTURES[name](), torch.randn(B, D)
    results = []
    for device, sparse in (("cpu", False), ("cuda", False), ("cuda", True)):
        moved = copy.deepcopy(sae).to(device)
        out = moved.training_step(x.to(device), StepContext(0, sparse=sparse))
        loss = (x.to(device) - out.x_hat).square().sum() + sum(out.terms.values())
        loss.backward()
        gradients = {n: p.grad.cpu() for n, p in moved.named_parameters() if p.grad is not None}
        results.append((out.x_hat.detach().cpu(), gradients))
    for x_hat, gradients in results[1:]:
        torch.testing.assert_close(x_hat, results[0][0], rtol=1e-3, atol=1e-3)
        for n, gradient in gradients.items():
            torch.testing.assert_close(gradient, results[0][1][n], rtol=1e-2, atol=1e-2, msg=n)


def test_a_step_that_is_not_finite_is_remembered_until_someone_looks(tmp_path):
    parts = parts_on_the_card(tmp_path, TopKSAE(D, F, K), OrthogonalityLoss())
    trainer = Trainer(20 * B, batch_size=B, warmup_steps=0, log_every=10, checkpoint_every=4)
    run = trainer.start(parts)
    for _ in range(3):
        trainer.step(parts, run)
    before = parts.sae.W_dec.detach().clone()
    good, parts.batches = parts.batches, NotANumber()
    trainer.step(parts, run)
    assert torch.equal(before, parts.sae.W_dec)  # nothing has moved
    parts.batches = good
    trainer.step(parts, run)
    with pytest.raises(RunError, match="step 4: the batch of activations is not finite"):
        run.saving.save(parts, run)
    assert not parts.checkpoints.files()


def test_a_checkpoint_is_that_of_the_same_numbers_on_the_cpu(tmp_path):
    x = torch.randn(300, 200)
    names = []
    for numbers in (x, x.cuda()):
        state = {"a": numbers, "across": numbers.T, "b": numbers.bfloat16(), "one": numbers[0, 0]}
        checkpoints = Checkpoints(tmp_path / numbers.device.type)
        checkpoints.save(1, state)
        assert checkpoints.save_in_background(2, state)
        names.append([path.name for path in checkpoints.files()])
    assert len(names[0]) == 2
    assert names[0] == names[1]
