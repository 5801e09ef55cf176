"""The options of training: what each may be, and which go together."""

from __future__ import annotations

from temporal_sae.errors import InvalidOption, check_bool, check_choice, check_int, check_number
from temporal_sae.loss.terms import RECONSTRUCTIONS
from temporal_sae.machine import Planned
from temporal_sae.sae import SparseAutoencoder
from temporal_sae.sae.step_ops import prefers_rows
from temporal_sae.training.constraints import CONSTRAINTS, check_constraint, make_constraint
from temporal_sae.training.snapshots import check_keep_every

LONGEST_WARMUP, LONGEST_SILENCE = 1000, 10_000_000  # steps and tokens, where none are given
SPARSE = {"auto": None, "sparse": True, "dense": False}
SCREENED = {"auto": None, "screened": True, "dense": False}
BY_ROWS = {"auto": None, "rows": True, "dense": False}


class TrainerOptions:
    """The options of a `Trainer`, checked.

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
        self.by_rows = BY_ROWS[check_choice("gradients", gradients, tuple(BY_ROWS))]
        self.compile = check_bool("compile", compile)
        self.log_every = check_int("log_every", log_every, 1)
        self.checkpoint_every = check_int("checkpoint_every", checkpoint_every, 1)
        self.checkpoint_minutes = (
            None
            if checkpoint_minutes is None
            else check_number("checkpoint_minutes", checkpoint_minutes, above=True)
        )
        self.keep_every = check_keep_every(keep_every)
        self.resume = check_choice("resume", resume, ("auto", "never"))
        self._check_together()

    def _check_together(self) -> None:
        """Raise InvalidOption where options do not go with each other."""
        if self.screened and self.sparse is False:
            raise InvalidOption("encoder", "screened", "auto or dense with trainer.step=dense")
        if self.screened and self.precision != "float32":
            raise InvalidOption("encoder", "screened", "auto or dense unless precision=float32")
        if self.by_rows and self.sparse is False:
            raise InvalidOption("gradients", "rows", "auto or dense with trainer.step=dense")
        if self.by_rows and self.constraint is not None:
            allowed = f"auto or dense with trainer.constraint={self.constraint}"
            raise InvalidOption("gradients", "rows", allowed)
        if self.compile and self.sparse is not False:
            raise InvalidOption("compile", True, "false unless trainer.step=dense")
        if self.warmup_steps > self.total_steps:
            allowed = f"at most the {self.total_steps} steps of the run"
            follows = "trainer.warmup_steps=null follows the length"
            raise InvalidOption("warmup_steps", self.warmup_steps, f"{allowed}; {follows}")

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
