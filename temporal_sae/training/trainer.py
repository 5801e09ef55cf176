"""The training loop.

The trainer knows protocols only: batches of activations, an SAE, a tracker, a separation penalty,
something that takes metrics, something that takes checkpoints. It opens no data set, names no
model and decides nothing about files.
"""

from __future__ import annotations

import logging
import math
import time

import torch
from torch import Tensor

from temporal_sae.activations import ActivationBatch
from temporal_sae.errors import (
    InvalidOption,
    check_choice,
    check_int,
    check_number,
)
from temporal_sae.loss.terms import RECONSTRUCTIONS, reconstruction_loss
from temporal_sae.sae import SparseAutoencoder, StepContext, StepOutput
from temporal_sae.training.backward import backward
from temporal_sae.training.dead import DeadLatents
from temporal_sae.training.geometric_median import geometric_median
from temporal_sae.training.interrupts import StopRequest
from temporal_sae.training.metrics import measure, warn_if_negligible
from temporal_sae.training.parts import Parts
from temporal_sae.training.schedule import learning_rate_factor
from temporal_sae.training.state import TrainingState, restore, snapshot
from temporal_sae.training.stopwatch import Stopwatch

log = logging.getLogger(__name__)

SAMPLE_FOR_BIAS = 8192


class Stopped(Exception):
    """Training stopped at a step boundary because of a signal; a checkpoint has been written."""

    def __init__(self, step: int, signal_number: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.step, self.signal_number = step, signal_number


class Trainer:
    """Trains an SAE on a stream of activations.

    Args:
        num_tokens: tokens to train on; rounded down to whole batches, but at least one.
        batch_size: tokens a step.
        lr: learning rate; null takes the architecture's own rule.
        warmup_steps: linear warm-up of the learning rate.
        decay_fraction: share of the steps, at the end, in which it falls linearly to 0.
        grad_clip: largest norm of the gradient; null for no limit.
        beta1: of Adam.
        beta2: of Adam.
        eps: of Adam.
        reconstruction: `fvu` (divided by the variance), `sse` (summed square) or `norm`.
        b_dec_init: `geometric_median`, `mean` (of a sample of activations) or `zeros`.
        dead_after_tokens: a latent silent for that long counts as dead.
        log_every: steps between logged metrics.
        checkpoint_every: steps between checkpoints.
        resume: `auto` continues where the output folder has a checkpoint; `never` starts again and
            deletes it.

    Raises:
        InvalidOption: an option is out of range.
    """

    def __init__(
        self,
        num_tokens: int,
        batch_size: int = 2048,
        lr: float | None = None,
        warmup_steps: int = 1000,
        decay_fraction: float = 0.2,
        grad_clip: float | None = 1.0,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        reconstruction: str = "fvu",
        b_dec_init: str = "geometric_median",
        dead_after_tokens: int = 10_000_000,
        log_every: int = 10,
        checkpoint_every: int = 1000,
        resume: str = "auto",
    ) -> None:
        self.batch_size = check_int("batch_size", batch_size, 1)
        self.total_steps = max(1, check_int("num_tokens", num_tokens, 1) // self.batch_size)
        self.lr = None if lr is None else check_number("lr", lr, above=True)
        self.warmup_steps = check_int("warmup_steps", warmup_steps, 0)
        self.decay_fraction = check_number("decay_fraction", decay_fraction, maximum=1.0)
        self.grad_clip = (
            None if grad_clip is None else check_number("grad_clip", grad_clip, above=True)
        )
        self.betas = (
            check_number("beta1", beta1, maximum=0.99999),
            check_number("beta2", beta2, maximum=0.99999),
        )
        self.eps = check_number("eps", eps)
        self.reconstruction = check_choice("reconstruction", reconstruction, RECONSTRUCTIONS)
        self.b_dec_init = check_choice(
            "b_dec_init", b_dec_init, ("geometric_median", "mean", "zeros")
        )
        self.dead_after_tokens = check_int("dead_after_tokens", dead_after_tokens, 1)
        self.log_every = check_int("log_every", log_every, 1)
        self.checkpoint_every = check_int("checkpoint_every", checkpoint_every, 1)
        self.resume = check_choice("resume", resume, ("auto", "never"))
        if self.warmup_steps > self.total_steps:
            raise InvalidOption(
                "warmup_steps", warmup_steps, f"at most the {self.total_steps} steps of the run"
            )

    def learning_rate(self, sae: SparseAutoencoder) -> float:
        """The full learning rate of a run."""
        return sae.default_lr() if self.lr is None else self.lr

    def fit(self, parts: Parts) -> TrainingState:
        """Train to the end, or until a signal asks to stop.

        Raises:
            Stopped: after SIGINT or SIGTERM, with a checkpoint written.
            RunError: the loss is no longer finite.
        """
        run = self._start(parts)
        began = time.monotonic() - run.seconds
        with StopRequest() as stop, parts.progress:
            parts.progress.start_at(run.step)
            while run.step < self.total_steps:
                self._step(parts, run)
                run.seconds = time.monotonic() - began
                if stop.signal is not None or run.step % self.checkpoint_every == 0:
                    parts.checkpoints.save(run.step, snapshot(parts, run))
                if stop.signal is not None:
                    raise Stopped(run.step, stop.signal)
        parts.checkpoints.save(run.step, snapshot(parts, run))
        return run

    def _start(self, parts: Parts) -> TrainingState:
        """Fresh state, or that of the newest whole checkpoint."""
        sae, device = parts.sae, parts.sae.W_dec.device
        run = TrainingState(
            torch.optim.Adam(
                sae.parameters(),
                lr=self.learning_rate(sae),
                betas=self.betas,
                eps=self.eps,
                fused=device.type in ("cpu", "cuda"),
            ),
            DeadLatents(sae.d_sae, self.dead_after_tokens, device),
            {name: Stopwatch(device) for name in ("tracker", "penalty")},
        )
        state = parts.checkpoints.load_newest() if self.resume == "auto" else None
        if state is None:
            parts.checkpoints.clear()
            self._init_b_dec(parts)
        else:
            restore(parts, run, state)
            log.info("continuing at step %d of %d", run.step, self.total_steps)
        parts.logger.rewind(run.step)
        return run

    def _init_b_dec(self, parts: Parts) -> None:
        if self.b_dec_init == "zeros":
            return
        sample = parts.batches.sample(SAMPLE_FOR_BIAS)
        center = geometric_median(sample) if self.b_dec_init != "mean" else sample.mean(0)
        parts.sae.b_dec.data.copy_(center)

    def _step(self, parts: Parts, run: TrainingState) -> None:
        sae = parts.sae
        batch = next(parts.batches)
        out = sae.training_step(batch.x, StepContext(run.step, run.dead.mask_if_any()))
        with run.stopwatches["tracker"].running():
            self._track(parts, batch, out)
        reconstruction = reconstruction_loss(self.reconstruction, batch.x, out.x_hat)
        main = sum(out.terms.values(), start=reconstruction)
        run.optimizer.zero_grad(set_to_none=True)
        penalty = backward(parts, main, out, run.stopwatches["penalty"])
        gradient_norm = self._update_weights(sae, run)
        run.dead.update(out.latents)
        run.step += 1
        if run.step % self.log_every == 0 or run.step == self.total_steps:
            losses = {"reconstruction": reconstruction, **out.terms, "separation": penalty}
            run.metrics = measure(parts, run, batch.x, out, losses, gradient_norm)
            warn_if_negligible(parts, run)
            parts.logger.log(run.step, run.metrics)
            parts.progress.show(run.step, run.metrics)

    @torch.no_grad()
    def _track(self, parts: Parts, batch: ActivationBatch, out: StepOutput) -> None:
        if parts.tracker.stream == "shuffled":
            parts.tracker.update(out.latents.active_indices().detach())
            return
        for chunk in batch.ordered:
            for piece in chunk.split(self.batch_size):
                parts.tracker.update(parts.sae.encode(piece).active_indices())

    def _update_weights(self, sae: SparseAutoencoder, run: TrainingState) -> Tensor:
        """Project, clip, step, renormalise, in this order."""
        sae.remove_parallel_gradient()
        limit = math.inf if self.grad_clip is None else self.grad_clip
        norm = torch.nn.utils.clip_grad_norm_(sae.parameters(), limit)
        factor = learning_rate_factor(
            run.step, self.total_steps, self.warmup_steps, self.decay_fraction
        )
        for group in run.optimizer.param_groups:
            group["lr"] = self.learning_rate(sae) * factor
        run.optimizer.step()
        sae.normalize_decoder()
        return norm
