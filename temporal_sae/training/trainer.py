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
    check_bool,
    check_choice,
    check_int,
    check_number,
)
from temporal_sae.loss.terms import RECONSTRUCTIONS, reconstruction_loss
from temporal_sae.machine import Planned
from temporal_sae.registry import component
from temporal_sae.sae import SparseAutoencoder, StepContext, StepOutput
from temporal_sae.sae.start import start_from
from temporal_sae.sae.step_ops import prefers_rows
from temporal_sae.training.backward import backward
from temporal_sae.training.compiled import compile_step
from temporal_sae.training.constraints import CONSTRAINTS, check_constraint, make_constraint
from temporal_sae.training.dead import DeadLatents
from temporal_sae.training.health import Health
from temporal_sae.training.initial import check_sample, fit_encoder, geometric_median
from temporal_sae.training.metrics import measure, warn_if_negligible
from temporal_sae.training.optimizer import SAEAdam
from temporal_sae.training.parts import Parts, in_order, interval_of
from temporal_sae.training.row_adam import RowAdam
from temporal_sae.training.saving import Saving
from temporal_sae.training.schedule import learning_rate_factor
from temporal_sae.training.snapshots import check_keep_every
from temporal_sae.training.state import TrainingState, identity_of, load_newest, restore
from temporal_sae.training.stopwatch import Stopwatch
from temporal_sae.training.together import Lane, train_together

log = logging.getLogger(__name__)

SAMPLE_FOR_BIAS = 8192
LONGEST_WARMUP, LONGEST_SILENCE = 1000, 10_000_000  # steps and tokens, where none are given
SPARSE = {"auto": None, "sparse": True, "dense": False}
SCREENED = {"auto": None, "screened": True, "dense": False}
BY_ROWS = {"auto": None, "rows": True, "dense": False}


@component("trainer")
class Trainer:
    """Trains an SAE on a stream of activations.

    Several processes work on a part of each batch and average their gradients; all hold the same
    weights, tracker and counters at all times, and the first writes what is written.

    Args:
        num_tokens: tokens to train on; rounded down to whole batches, but at least one.
        batch_size: tokens per step, of all processes together.
        lr: learning rate; null takes the architecture's own rule.
        warmup_steps: linear warm-up of the learning rate; null: a twentieth of the steps, at most
            1000.
        decay_fraction: share of the steps, at the end, in which it falls linearly to 0.
        grad_clip: largest norm of the gradient; null for no limit.
        beta1: of Adam.
        beta2: of Adam.
        eps: of Adam.
        reconstruction: `fvu` (divided by the variance), `sse` (summed square) or `norm`.
        b_dec_init: `geometric_median`, `mean` (of a sample of activations) or `zeros`.
        encoder_init: the encoder starts as the transpose of the decoder, `tied`; or `fitted`, which
            is that times the one number that makes the first batch's reconstruction best.
        constraint: `aligned` keeps encoder · decoder at 1 for each latent; `frozen_decoder` and
            `frozen_encoder` keep that matrix as it begins, and `soft_frozen_decoder` each row at a
            cosine of at least .8 with its beginning; null for none.
        dead_after_tokens: a latent silent for that long counts as dead; null: a fifth of the
            tokens, at most 10 million.
        precision: `float32`, or `bfloat16` for the matrix products (autocast); parameters, losses,
            thresholds, tracker and optimiser are float32 in any case.
        step: `sparse` computes by gathering the active rows, `dense` by multiplying whole
            matrices, `auto` whichever is faster. They agree to rounding.
        encoder: `dense` computes all pre-activations; `screened` only those that a product of 8-bit
            integers, whose error is bounded, does not exclude from the active ones; `auto`
            whichever is faster. They agree to rounding.
        gradients: `rows` holds those of the latents that have one in a step, and Adam passes over
            the latents that have long had none (see `RowAdam`); `dense` holds those of all; `auto`
            is `rows` where few have one. They agree to rounding and 1e-4 learning rates.
        compile: compile the SAE's part of a step by torch.compile; it needs `step=dense`.
        log_every: steps between logged metrics.
        checkpoint_every: steps between checkpoints.
        checkpoint_minutes: after which there is one at the next logged step, too; null: never.
        keep_every: steps between SAEs that are kept for good, each loadable by itself; `log` keeps
            those after 1, 2, 4, 8, … steps, null none.
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
        warmup_steps: int | None = None,
        decay_fraction: float = 0.2,
        grad_clip: float | None = 1.0,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        reconstruction: str = "fvu",
        b_dec_init: str = "geometric_median",
        encoder_init: str = "fitted",
        constraint: str | None = None,
        dead_after_tokens: int | None = None,
        precision: str = "float32",
        step: str = "auto",
        encoder: str = "auto",
        gradients: str = "auto",
        compile: bool = False,
        log_every: int = 10,
        checkpoint_every: int = 1000,
        checkpoint_minutes: float | None = 10.0,
        keep_every: int | str | None = None,
        resume: str = "auto",
    ) -> None:
        self.batch_size = check_int("batch_size", batch_size, 1)
        self.total_steps = max(1, check_int("num_tokens", num_tokens, 1) // self.batch_size)
        self.lr = None if lr is None else check_number("lr", lr, above=True)
        if warmup_steps is None:
            warmup_steps = min(LONGEST_WARMUP, self.total_steps // 20)
        self.warmup_steps = check_int("warmup_steps", warmup_steps, 0)
        self.decay_fraction = check_number("decay_fraction", decay_fraction, maximum=1.0)
        self.grad_clip = (
            None if grad_clip is None else check_number("grad_clip", grad_clip, above=True)
        )
        self.betas = (
            check_number("beta1", beta1, maximum=0.99999),
            check_number("beta2", beta2, maximum=0.99999),
        )
        self.eps = check_number("eps", eps, above=True)
        self.reconstruction = check_choice("reconstruction", reconstruction, RECONSTRUCTIONS)
        self.b_dec_init = check_choice(
            "b_dec_init", b_dec_init, ("geometric_median", "mean", "zeros")
        )
        self.encoder_init = check_choice("encoder_init", encoder_init, ("fitted", "tied"))
        self.constraint = check_choice("constraint", constraint, (None, *CONSTRAINTS))
        if dead_after_tokens is None:
            n_tokens = self.total_steps * self.batch_size
            dead_after_tokens = min(LONGEST_SILENCE, max(1, n_tokens // 5))
        self.dead_after_tokens = check_int("dead_after_tokens", dead_after_tokens, 1)
        self.precision = check_choice("precision", precision, ("float32", "bfloat16"))
        self.sparse = SPARSE[check_choice("step", step, tuple(SPARSE))]
        self.screened = SCREENED[check_choice("encoder", encoder, tuple(SCREENED))]
        if self.screened and self.sparse is False:
            raise InvalidOption("encoder", encoder, "auto or dense with trainer.step=dense")
        if self.screened and self.precision != "float32":
            raise InvalidOption("encoder", encoder, "auto or dense unless precision=float32")
        self.by_rows = BY_ROWS[check_choice("gradients", gradients, tuple(BY_ROWS))]
        if self.by_rows and self.sparse is False:
            raise InvalidOption("gradients", gradients, "auto or dense with trainer.step=dense")
        if self.by_rows and self.constraint is not None:
            allowed = f"auto or dense with trainer.constraint={self.constraint}"
            raise InvalidOption("gradients", gradients, allowed)
        self.compile = check_bool("compile", compile)
        if self.compile and self.sparse is not False:
            raise InvalidOption("compile", compile, "false unless trainer.step=dense")
        self.log_every = check_int("log_every", log_every, 1)
        self.checkpoint_every = check_int("checkpoint_every", checkpoint_every, 1)
        self.checkpoint_minutes = (
            None
            if checkpoint_minutes is None
            else check_number("checkpoint_minutes", checkpoint_minutes, above=True)
        )
        self.keep_every = check_keep_every(keep_every)
        self.resume = check_choice("resume", resume, ("auto", "never"))
        if self.warmup_steps > self.total_steps:
            allowed = f"at most the {self.total_steps} steps of the run"
            follows = "trainer.warmup_steps=null follows the length"
            raise InvalidOption("warmup_steps", warmup_steps, f"{allowed}; {follows}")

    def check(self, sae: SparseAutoencoder) -> None:
        """Raise InvalidOption unless an SAE (shapes will do) can be trained like this."""
        check_constraint(self.constraint, sae)
        if self.screened and not sae.can_screen:
            allowed = f"auto or dense with sae={sae.trained_as}: it is for the largest latents"
            raise InvalidOption("encoder", "screened", allowed)
        if self.by_rows and sae.most_rows(self.batch_size) is None:
            allowed = f"auto or dense with sae={sae.trained_as}: it is for topk and batch_topk"
            raise InvalidOption("gradients", "rows", allowed)

    def keeps_rows(self, sae: SparseAutoencoder) -> bool:
        """Return whether one process on a CPU keeps the gradients by rows."""
        if self.by_rows is not None:
            return self.by_rows
        most = sae.most_rows(self.batch_size)
        if most is None or self.constraint is not None or self.sparse is False:
            return False
        return prefers_rows(sae.d_sae, most)

    def planned_bytes(self, sae: SparseAutoencoder) -> dict[str, Planned]:
        """Return what is kept beside the SAE, its gradients and their averages."""
        return make_constraint(self.constraint).planned_bytes(sae)

    def learning_rate(self, sae: SparseAutoencoder) -> float:
        """Return the full learning rate of a run."""
        return sae.default_lr() if self.lr is None else self.lr

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
