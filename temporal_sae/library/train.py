"""Train an SAE on activations, and evaluate it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from temporal_sae.activations import ActivationSource, ActivationStream
from temporal_sae.activations.given import as_source
from temporal_sae.activations.source import ROWS
from temporal_sae.errors import InvalidOption, check_int
from temporal_sae.eval import AutoEvaluation
from temporal_sae.experiment.build import choose_device
from temporal_sae.experiment.determinism import deterministic_on_cpu
from temporal_sae.files import write_json
from temporal_sae.library.folder import CallFolder
from temporal_sae.library.parts import (
    ARCHITECTURE,
    divided,
    find_start,
    make_penalty,
    make_sae,
    make_tracker,
)
from temporal_sae.metrics import finite_leaves
from temporal_sae.sae import SparseAutoencoder
from temporal_sae.training import (
    About,
    JsonlLogger,
    NoLogger,
    Parts,
    ProgressDisplay,
    Stopped,
    Trainer,
)
from temporal_sae.training.checkpoint import NoCheckpoints
from temporal_sae.training.loggers import Metrics
from temporal_sae.training.progress import NoProgress
from temporal_sae.training.state import TrainingState

STEPS_WANTED = 500  # of short runs, as long as batches do not get too small
SMALLEST_BATCH, LARGEST_BATCH = 64, 2048
MOST_HELD_OUT = 4096  # rows of an iterable


@dataclass(repr=False)
class TrainedSAE:
    """The result of `train`.

    Attributes:
        sae: takes activations as they are: the scale of the input is folded in.
        tracker: with the running averages of all pairs, as training has left them.
        history: the metrics of the logged steps, each with its `step`.
        metrics: numbers on held-out activations, such as `explained_variance`, `l0`, `dead_share`.
        source: the activations.
        scale: by which they were divided in training.
        seconds: that training took.
    """

    sae: SparseAutoencoder
    tracker: Any
    history: list[Metrics]
    metrics: Metrics
    source: ActivationSource
    scale: float
    seconds: float

    def __repr__(self) -> str:
        shown = ("explained_variance", "l0")
        scores = [f"{name}={self.metrics[name]:.3g}" for name in shown if name in self.metrics]
        what = f"{self.sae.trained_as}, {self.sae.d_sae} latents, {self.source.name}"
        return f"TrainedSAE({', '.join([what, *scores])})"

    def save(self, folder: str | Path) -> None:
        """Write the SAE, so that `load_sae` and SAELens read it."""
        self.sae.save(folder, self.source.metadata())


class _History(NoLogger):
    """Keeps the metrics in memory."""

    def __init__(self) -> None:
        self.steps: list[Metrics] = []

    def log(self, step: int, metrics: Metrics) -> None:
        self.steps.append({"step": step, **metrics})


def train(
    x: Any,
    sae: str | SparseAutoencoder | None = None,
    *,
    d_sae: int | None = None,
    tracker: Any = "co_activation",
    loss: Any = "orthogonality",
    num_tokens: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    held_out_fraction: float = 0.1,
    finetune: str | Path | SparseAutoencoder | None = None,
    folder: str | Path | None = None,
    progress: bool = True,
    n_sequences: int = 256,
    **options: Any,
) -> TrainedSAE:
    """Train an SAE on activations, and evaluate it on some that are held out.

    Args:
        x: a tensor, array or memory map [..., d_in]; a path of .npy, .safetensors or .parquet
            files; an iterable of batches [n, d_in], of which a list is read again where it ends;
            or an `ActivationSource`.
        sae: an architecture (`topk`, `batch_topk`, `standard`, `jumprelu`, `gated`, `matryoshka`),
            or an SAE, which is trained in place; None: that of `finetune`, or `topk`.
        d_sae: number of latents; None: that of `finetune`, or 4096.
        tracker: `co_activation`, its options in a dictionary (`{"window_size": 500}`), a tracker,
            or None for the plain SAE.
        loss: `orthogonality`, its options in a dictionary (`{"ortho_weight": 1.0}`), a penalty, or
            None for the plain SAE.
        num_tokens: rows to train on; None: those of x that are not held out, once.
        batch_size: rows of a step; None: so many that there are 500 steps, between 64 and 2048.
        seed: fixes initial weights and order.
        device: None: CUDA where there is one.
        held_out_fraction: share of an array or of files that is not trained on.
        finetune: an SAE, or a folder with one in any readable format, whose weights are the start.
        folder: receives checkpoints, from which the same call goes on, `metrics.jsonl`, `sae/` and
            `results.json`; a larger `num_tokens` trains further. None: nothing is written.
        progress: show how far training is, also in a notebook.
        n_sequences: held-out sequences (of 128 rows where there is no text) for the evaluation.
        options: of the architecture (`k`, `l1_weight`, …) and of `Trainer` (`lr`, `precision`, …).

    Raises:
        InvalidOption, RunError: in one line, what is wrong and what is allowed.
        KeyboardInterrupt: Ctrl-C; a checkpoint is in the folder, if there is one.
    """
    start = find_start(finetune)
    if sae is None:
        sae = ARCHITECTURE if start is None else start.trained_as
    of_trainer, of_sae = divided(options, sae)
    check_int("n_sequences", n_sequences, 1)
    where = choose_device("auto" if device is None else str(device))
    place = None if folder is None else CallFolder(folder, options.get("resume") == "never")
    earlier = None if place is None else place.earlier
    held_out_rows = earlier["held_out_rows"] if earlier else held_out_rows_for(num_tokens)
    source = as_source(x, where, held_out_fraction, held_out_rows)
    source.open()
    source.why_not(ROWS)  # raises where held-out rows are damaged, and not only after all training
    n_tokens = length_for(source, num_tokens)
    if batch_size is None:
        batch_size = earlier["batch_size"] if earlier else batch_size_for(n_tokens)
    batch_size = check_batch(source, batch_size)
    cuda = [source.device] if source.device.type == "cuda" else []
    with torch.random.fork_rng(cuda), deterministic_on_cpu(source.device):
        torch.manual_seed(check_int("seed", seed, 0))
        trainer = Trainer(num_tokens=n_tokens, batch_size=batch_size, **of_trainer)
        model = make_sae(sae, source.d_in, d_sae, start, of_sae).to(source.device)
        history = _History()
        parts = Parts(
            sae=model,
            batches=None,
            tracker=make_tracker(tracker, model.d_sae, source.device),
            penalty=make_penalty(loss),
            finetune=start,
            logger=history if place is None else JsonlLogger(place.path),
            checkpoints=NoCheckpoints() if place is None else place.checkpoints,
            progress=display(trainer, progress),
        )
        parts.penalty.check_tracker(parts.tracker)
        ordered = parts.tracker.stream == "ordered"
        parts.batches = stream = source.stream(batch_size, seed, ordered)
        if place is not None:
            place.begin(
                {
                    "batch_size": batch_size,
                    "held_out_rows": held_out_rows,
                    "held_out_fraction": held_out_fraction,
                    "sae": sae,
                    "d_sae": model.d_sae,
                    "tracker": tracker,
                    "loss": loss,
                    "finetune": finetune,
                    "seed": seed,
                    **options,
                }
            )
        state = fitted(trainer, parts, stream)
        sections = evaluated(model, source, n_sequences)
    steps = history.steps if place is None else place.history()
    metrics = dict(leaf for part in sections.values() for leaf in finite_leaves(part["metrics"]))
    result = TrainedSAE(model, parts.tracker, steps, metrics, source, stream.scale, state.seconds)
    if place is not None:
        result.save(place.path / "sae")
        write_json(place.path / "results.json", sections)
    return result


def display(trainer: Trainer, progress: bool) -> ProgressDisplay | NoProgress:
    """Return the display of how far training is, or none."""
    return ProgressDisplay(trainer.total_steps, Console()) if progress else NoProgress()


def held_out_rows_for(num_tokens: int | None) -> int:
    """Return how many rows of an iterable are held out: a tenth of a short run."""
    if num_tokens is None:
        return MOST_HELD_OUT
    return min(MOST_HELD_OUT, -(-check_int("num_tokens", num_tokens, 1) // 10))


def length_for(source: ActivationSource, num_tokens: int | None) -> int:
    """Return the rows to train on.

    Raises:
        InvalidOption: they are not given, and nobody knows how many there are.
    """
    n_tokens = source.rows_in_pass if num_tokens is None else num_tokens
    if n_tokens is None:
        raise InvalidOption("num_tokens", None, f"given for {source.name}, whose length is unknown")
    return n_tokens


def batch_size_for(n_tokens: int) -> int:
    """Return the rows of a step."""
    return min(LARGEST_BATCH, max(SMALLEST_BATCH, n_tokens // STEPS_WANTED))


def check_batch(source: ActivationSource, batch_size: int) -> int:
    """Return the rows of a step; the shuffle buffer has to hold them.

    Raises:
        InvalidOption: it does not, or they are no whole number.
    """
    batch_size = check_int("batch_size", batch_size, 1)
    if batch_size > source.buffer_tokens:
        allowed = f"at most {source.buffer_tokens:,}, the rows that are mixed"
        raise InvalidOption("batch_size", batch_size, allowed)
    return batch_size


def fitted(trainer: Trainer, parts: Parts, stream: ActivationStream) -> TrainingState:
    """Train, and fold the scale of the input into the SAE.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    parts.logger.start(About({}))
    try:
        with stream.released():
            state = trainer.fit(parts)
    except Stopped as stopped:
        raise KeyboardInterrupt(str(stopped)) from None
    parts.sae.fold_input_scale(stream.scale)
    return state


def evaluated(sae: SparseAutoencoder, source: ActivationSource, n_sequences: int) -> dict[str, Any]:
    """Return the metrics that the source allows, by section; none where nothing is held out."""
    options = AutoEvaluation(
        n_reconstruction_sequences=min(n_sequences, 128), n_sparsity_sequences=n_sequences
    )
    found: dict[str, Any] = {}
    for evaluation in options.chosen(source):
        found |= evaluation.sections(sae, source)
    return found
