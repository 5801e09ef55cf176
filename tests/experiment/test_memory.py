"""The memory budget: what components say that they will take, and what they take."""

import pytest
import torch

from temporal_sae.activations import Harvest, LanguageModel
from temporal_sae.data import StdlibText
from temporal_sae.eval import CoreEvaluation
from temporal_sae.experiment.memory import what_helps
from temporal_sae.loss import ChunkedOrthogonalityLoss, ConsecutiveLoss, OrthogonalityLoss
from temporal_sae.machine import MIB, Planned
from temporal_sae.sae import StandardSAE, TopKSAE
from temporal_sae.tracker import CoActivationTracker, NoTracker, TranscriptTracker
from temporal_sae.tracker.choice import window_bytes
from temporal_sae.tracker.stability import StabilityMonitor
from tests.test_config_surface import composed

CPU = torch.device("cpu")


def sizes(items):
    return {name: item.n_bytes for name, item in items.items()}


def test_an_sae_takes_weights_gradients_two_moments_and_five_dense_copies_of_a_batch():
    with torch.device("meta"):
        sae = TopKSAE(d_in=10, d_sae=100, k=4)
    n_weights = 2 * 10 * 100 + 100 + 10
    assert sizes(sae.planned_bytes(batch_size=7)) == {
        "SAE, gradients, Adam": 4 * 4 * n_weights,
        "batch": 5 * 7 * 100 * 4,
    }


def opened(model, **options):
    source = Harvest(**options, model=model, text=StdlibText())
    source.open()
    return source


@pytest.mark.parametrize(("dtype", "n_bytes"), [("float32", 4), ("bfloat16", 2)])
def test_a_source_takes_the_model_and_its_buffer_in_the_precision_of_that(
    random_gemma, dtype, n_bytes
):
    """Of a row the width is 16, and three numbers of 4 bytes say where it comes from."""
    model = LanguageModel(str(random_gemma), "blocks.1.hook_resid_post", dtype)
    planned = opened(model, buffer_tokens=1000, context_size=32).planned_bytes()
    assert sizes(planned) == {
        "language model": model.bytes_before_hook(),
        "forward pass": 32 * 32 * (3 * 32 + 6 * 16) * n_bytes,
        "shuffle buffer": 1000 * (16 * n_bytes + 12),
    }
    assert [name for name, item in planned.items() if item.held] == ["language model"]


def test_on_a_gpu_a_window_marks_its_labels_by_bytes():
    """Of 10 tokens: 4 slots of 12 bytes each, and 50 labels."""
    assert window_bytes("dense", 50, 4, 10, torch.device("cuda")) == 10 * (48 + 50)
    assert window_bytes("dense", 50, 4, 10, CPU) == 10 * (48 + 6)


def test_the_monitor_takes_four_copies_of_the_rows_it_follows():
    planned = StabilityMonitor().planned_bytes(n_latents=50, d_in=10)
    assert sizes(planned) == {"decoder drift": 4 * 50 * 10 * 4}


@pytest.mark.parametrize(
    ("tracker", "n_bytes", "key"),
    [
        # 50 · 49 · 2 of averages; two windows of 10 tokens: 4 slots of 12 bytes, 50 labels of a bit
        (CoActivationTracker(1, 10, storage="dense"), 4900 + 2 * 10 * (48 + 6), "sae.d_sae"),
        (CoActivationTracker(1, 100, storage="dense"), 4900 + 200 * (48 + 6), "tracker.window"),
        (CoActivationTracker(1, 10, storage="sparse"), 2 * 10 * (48 + 40 // 8), "tracker.window"),
        (CoActivationTracker(1, 10, storage="reference"), 60_000 + 20 * (48 + 6), "sae.d_sae"),
        (TranscriptTracker(1, 10), 60_000 + 20 * (48 + 6), "sae.d_sae"),
    ],
)
def test_a_tracker_takes_its_averages_and_two_windows(tracker, n_bytes, key):
    (item,) = tracker.planned_bytes(n_latents=50, k=4, device=CPU).values()
    assert item.n_bytes == n_bytes
    assert item.smaller[0].startswith(key)


def test_no_tracker_takes_nothing():
    assert NoTracker(1).planned_bytes(50, 4, CPU) == {}


@pytest.mark.parametrize("storage", ["dense", "reference"])
def test_what_a_tracker_holds_is_what_it_planned_to(storage):
    tracker = CoActivationTracker(300, window_size=64, storage=storage)
    (planned,) = tracker.planned_bytes(300, 8, CPU).values()
    for _ in range(4):
        tracker.update(torch.rand(64, 300).topk(8).indices)
    assert planned.n_bytes / 3 <= tracker.nbytes() <= planned.n_bytes


@pytest.mark.parametrize("loss", [OrthogonalityLoss(), ChunkedOrthogonalityLoss()])
def test_a_penalty_on_rows_takes_a_gradient_and_four_times_two_megabytes(loss):
    (item,) = loss.planned_bytes(n_latents=50, d_in=10).values()
    assert item.n_bytes == 50 * 10 * 4 + 4 * 2 * MIB


def test_the_consecutive_penalty_takes_four_matrices_of_all_pairs():
    (item,) = ConsecutiveLoss().planned_bytes(n_latents=50, d_in=10).values()
    assert item.n_bytes == 4 * 50 * 50 * 4


def test_an_evaluation_takes_six_times_the_logits_the_stream_and_three_times_the_latents(
    small_model,
):
    with torch.device("meta"):
        sae = StandardSAE(16, 100)
    evaluation = CoreEvaluation(lm_batch_size=3)
    items = evaluation.planned_bytes(opened(small_model, context_size=32), sae)
    assert sizes(items) == {
        "logits in evaluation": 3 * 32 * (6 * 2048 + 16) * 4,
        "latents in evaluation": 3 * 3 * 32 * 100 * 4,
        "rest of the language model": small_model.nbytes() - small_model.bytes_before_hook(),
    }
    assert items["logits in evaluation"].smaller[0] == "eval.lm_batch_size"


def test_advice_names_the_largest_items_and_only_keys_that_there_are():
    items = {
        "small": Planned(1 * MIB, ("sae.d_sae",)),
        "tracker": Planned(50 * MIB, ("tracker.window_size", "sae.k")),
        "batch": Planned(40 * MIB, ("trainer.batch_size",)),
    }
    cfg = composed("sae=standard")
    assert what_helps(cfg, items, 10 * MIB) == "lower tracker.window_size (tracker 50)"
    both = "lower tracker.window_size (tracker 50), trainer.batch_size (batch 40)"
    assert what_helps(cfg, items, 60 * MIB) == both
    topk = what_helps(composed(), items, 10 * MIB)
    assert topk == "lower tracker.window_size or sae.k (tracker 50)"
