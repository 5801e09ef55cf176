"""The training loop.

The trainer knows protocols only: batches of activations, an SAE, a tracker, a penalty on pairs of
latents, something that takes metrics, something that takes checkpoints. It opens no data set, names
no model and decides nothing about files.
"""

from __future__ import annotations

import logging
from functools import partial

import torch
from torch import Tensor

from temporal_sae import distributed
from temporal_sae.activations import ActivationBatch
from temporal_sae.errors import (
    InvalidOption,
    RunError,
)
from temporal_sae.loss.terms import reconstruction_loss
from temporal_sae.registry import component
from temporal_sae.sae import SparseAutoencoder, StepContext, StepOutput
from temporal_sae.sae.start import start_from
from temporal_sae.training.backward import backward
from temporal_sae.training.compiled import compile_step
from temporal_sae.training.constraints import make_constraint
from temporal_sae.training.dead import DeadLatents
from temporal_sae.training.health import Health
from temporal_sae.training.initial import check_sample, fit_encoder, geometric_median
from temporal_sae.training.metrics import measure, warn_if_negligible
from temporal_sae.training.optimizer import SAEAdam
from temporal_sae.training.options import TrainerOptions
from temporal_sae.training.parts import Parts, in_order, interval_of
from temporal_sae.training.row_adam import RowAdam
from temporal_sae.training.saving import Saving
from temporal_sae.training.schedule import learning_rate_factor
from temporal_sae.training.state import TrainingState, identity_of, load_newest, restore
from temporal_sae.training.stopwatch import Stopwatch
from temporal_sae.training.together import Lane, train_together

log = logging.getLogger(__name__)

SAMPLE_FOR_BIAS = 8192


@component("trainer")
class Trainer(TrainerOptions):
    """Trains an SAE on a stream of activations.

    Several processes work on a part of each batch and average their gradients; all hold the same
    weights, tracker and counters at all times, and the first writes what is written.

    Args: as of `TrainerOptions`.

    Raises:
        InvalidOption: an option is out of range.
    """

    def fit(self, parts: Parts) -> TrainingState:
        """Train to the end, or until a signal asks to stop.

        Args:
            parts: completed where some are left out, see `Parts`.

        Raises:
            Stopped: after SIGINT, or SIGTERM outside a batch job, with a checkpoint written.
            Preempted: after SIGUSR2 where its handler ends the process, with a checkpoint written.
            RunError: a loss, the gradient or the activations are not finite, or the first
                activations are all equal; or they have ended or cannot be read on, with a
                checkpoint written; or the checkpoint in the folder is of another run.
        """
        lane = Lane(self, parts)
        train_together([lane])
        if lane.error is not None:
            raise lane.error
        return lane.run

    def start(self, parts: Parts) -> TrainingState:
        """Return a fresh state, or that of the newest whole checkpoint, with the parts in it.

        Raises:
            InvalidOption, RunError: see `fit`.
        """
        if self.keep_every is not None and parts.snapshots is None:
            raise InvalidOption("keep_every", self.keep_every, "null without Parts.snapshots")
        sae, device = parts.sae, parts.sae.W_dec.device
        self.check(sae)
        is_one_cpu = device.type == "cpu" and distributed.world_size() == 1
        if not is_one_cpu and self.screened:
            raise InvalidOption("encoder", "screened", "auto or dense, but by one process on a CPU")
        if not is_one_cpu and self.by_rows:
            raise InvalidOption("gradients", "rows", "auto or dense, but by one process on a CPU")
        make_adam = RowAdam if is_one_cpu and self.keeps_rows(sae) else SAEAdam
        run = TrainingState(
            make_adam(sae, self.betas, self.eps, self.grad_clip),
            DeadLatents(sae.d_sae, self.dead_after_tokens, device),
            Health(device, parts.checkpoints.newest_in_words),
            {name: Stopwatch(device) for name in ("tracker", "penalty")},
            Saving(self.checkpoint_every, self.checkpoint_minutes, self.log_every, self.keep_every),
            identity=identity_of(sae),
            constraint=make_constraint(self.constraint),
        )
        if self.compile:
            compile_step(sae)
        state = load_newest(parts.checkpoints) if self.resume == "auto" else None
        if state is None:
            distributed.on_rank_zero(parts.checkpoints.clear)
            self._initialise(parts)
            run.constraint.start(sae)
        else:
            restore(parts, run, state)
            run.saving.saved_at = run.step
            if run.step > self.total_steps:
                raise RunError(
                    f"the newest checkpoint is of step {run.step:,}, and num_tokens ends at step "
                    f"{self.total_steps:,}; raise it, or choose another folder"
                )
            log.info("continuing at step %d of %d", run.step, self.total_steps)
        parts.logger.rewind(run.step)
        if parts.snapshots:
            distributed.on_rank_zero(partial(parts.snapshots.rewind, run.step))
        return run

    @torch.no_grad()
    def _initialise(self, parts: Parts) -> None:
        """Initialise the weights that depend on a sample of the data."""
        sample = parts.stream.sample(SAMPLE_FOR_BIAS)
        check_sample(sample)
        if parts.finetune is not None:
            start_from(parts.sae, parts.finetune, getattr(parts.stream, "scale", 1.0))
            return
        if self.b_dec_init != "zeros":
            is_median = self.b_dec_init == "geometric_median"
            parts.sae.b_dec.copy_(geometric_median(sample) if is_median else sample.mean(0))
        if self.encoder_init == "fitted":
            first = sample[: self.batch_size]
            even = len(first) - len(first) % distributed.world_size()
            fit_encoder(parts.sae, distributed.local_shard(first[:even]))
        for tensor in parts.sae.state_dict().values():
            distributed.broadcast_(tensor)

    def step(self, parts: Parts, run: TrainingState) -> None:
        """Train on the next batch.

        Raises:
            RunError: see `fit`.
        """
        batch = self._next_batch(parts, run)
        x = distributed.local_shard(batch.x)
        rows = run.optimizer.gradients
        sparse = self.sparse if rows is None else True
        context = StepContext(run.step, run.dead.mask_if_any(), sparse, self.screened, rows)
        with self._autocast(x.device):
            out = parts.sae.training_step(x, context)
        with run.stopwatches["tracker"].running():
            self._track(parts, batch, out)
        losses = {"reconstruction": self._reconstruction(x, out), **out.terms}
        main = torch.stack(list(losses.values())).sum()
        is_due = (run.step + 1) % interval_of(parts.penalty) == 0
        penalty = backward(parts, main, out, run.stopwatches["penalty"], is_due, rows)
        losses["orthogonality"] = penalty
        run.constraint.before_step(parts.sae)
        gradient_norm = run.optimizer.step(self._learning_rate_now(parts.sae, run.step))
        run.optimizer.zero_grad()  # now: the next batch's product need not find room beside them
        run.step += 1
        watched = {f"{name} loss": loss for name, loss in losses.items()}
        run.health.check(
            run.step, {"batch of activations": x, **watched, "gradient": gradient_norm}
        )
        renewed = parts.sae.after_step(x, out, context)
        run.constraint.after_step(parts.sae)
        run.dead.update(distributed.all_reduce_any(out.fired), len(batch.x))
        if renewed is not None:
            run.optimizer.forget(renewed)
            run.dead.forget(renewed)
        if run.step % self.log_every == 0 or run.step == self.total_steps:
            run.health.raise_if_not_finite()
            run.metrics = measure(parts, run, x, out, losses, gradient_norm)
            warn_if_negligible(parts, run)
            parts.logger.log(run.step, run.metrics)
            parts.progress.show(run.step, run.metrics)

    def _next_batch(self, parts: Parts, run: TrainingState) -> ActivationBatch:
        """Return the next batch; where there is none, save what has been trained so far."""
        try:
            return next(parts.stream)
        except RunError as error:
            if not run.step:
                raise
            run.saving.save(parts, run)
            step = f"step {run.step}"
            kept = f"a checkpoint of {step} has been written" if parts.checkpoints.keep else step
            told = f"{error}; {kept}"
            raise distributed.collective(RunError(told)) from error

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def _reconstruction(self, x: Tensor, out: StepOutput) -> Tensor:
        """Return the mean over the reconstructions, of which most architectures have one."""
        x_hats = (*out.partial, out.x_hat)
        losses = [reconstruction_loss(self.reconstruction, x, x_hat) for x_hat in x_hats]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def _track(self, parts: Parts, batch: ActivationBatch, out: StepOutput) -> None:
        if not in_order(parts.tracker):
            parts.tracker.update(out.latents.active_indices().detach())
            return
        for rows in batch.ordered:
            for part in rows.split(self.batch_size):
                own = distributed.local_shard(part.x)
                latents = parts.sae.encode(own).largest(parts.sae.tracked_latents)
                parts.tracker.update(latents.active_indices())

    def _learning_rate_now(self, sae: SparseAutoencoder, step: int) -> float:
        factor = learning_rate_factor(
            step, self.total_steps, self.warmup_steps, self.decay_fraction
        )
        return self.learning_rate(sae) * factor
