"""The numbers of a logged step. Everything that waits for a GPU happens here, and only here."""

from __future__ import annotations

import logging

import torch
from jaxtyping import Float
from torch import Tensor

from temporal_sae.distributed import all_reduce_mean, world_size
from temporal_sae.loss.terms import variance
from temporal_sae.sae import StepOutput
from temporal_sae.training.loggers import Metrics
from temporal_sae.training.parts import Parts, interval_of
from temporal_sae.training.state import TrainingState

log = logging.getLogger(__name__)

NEGLIGIBLE = 1e-4
PATIENCE = 10


@torch.no_grad()
def measure(
    parts: Parts,
    run: TrainingState,
    x: Float[Tensor, "tokens d_in"],
    out: StepOutput,
    losses: dict[str, Tensor],
    gradient_norm: Tensor,
) -> Metrics:
    """Everything worth logging about the step that has just been done, by all processes.

    Args:
        x: this process's part of the batch.
    """
    stability = {}
    if parts.stability:
        with run.stopwatches["tracker"].running():
            stability = parts.stability.observe(parts.tracker, parts.sae.W_dec)
    error = (x - out.x_hat).square().sum(-1).mean()
    values = {name: float(all_reduce_mean(loss)) for name, loss in losses.items()}
    unexplained = all_reduce_mean(error) / variance(x)
    tokens = run.step * x.shape[0] * world_size()
    return {
        "tokens": tokens,
        "loss": sum(values.values()),
        **{f"loss_{name}": value for name, value in values.items()},
        "orthogonality_ratio": values["orthogonality"] / max(values["reconstruction"], 1e-30),
        "explained_variance": 1 - float(unexplained),
        "l0": float(all_reduce_mean(out.l0)),
        "dead_share": float(run.dead.share()),
        "lr": run.optimizer.lr,
        "gradient_norm": float(gradient_norm),
        "windows_closed": parts.tracker.windows_closed,
        "tokens_per_second": run.clock.tokens_per_second(tokens),
        **out.metrics,
        **{name: float(value) for name, value in parts.stream.metrics().items()},
        **{f"seconds_{name}": watch.seconds() for name, watch in run.stopwatches.items()},
        **stability,
    }


def warn_if_negligible(parts: Parts, run: TrainingState) -> None:
    """A penalty that stays far below the reconstruction loss must not go unnoticed.

    A step in which it is not due says nothing of it.
    """
    if run.step % interval_of(parts.penalty):
        return
    if (
        parts.penalty.ortho_weight == 0
        or not is_at_work(parts)
        or run.metrics["orthogonality_ratio"] >= NEGLIGIBLE
    ):
        run.steps_negligible = 0
        return
    run.steps_negligible += 1
    if run.steps_negligible == PATIENCE:
        log.warning(
            "the orthogonality penalty has been below %g of the reconstruction loss for %d logged "
            "steps (now %.2g): it does next to nothing; raise loss.ortho_weight",
            NEGLIGIBLE,
            PATIENCE,
            run.metrics["orthogonality_ratio"],
        )


def is_at_work(parts: Parts) -> bool:
    """Return True once the penalty has begun: with the first window, or when it says itself."""
    if hasattr(parts.penalty, "is_at_work"):
        return bool(parts.penalty.is_at_work(parts.tracker))
    return parts.tracker.windows_closed > 0 or not parts.penalty.needs_tracker
