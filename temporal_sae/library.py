"""From activations to a trained SAE in one call: `from temporal_sae import train`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from temporal_sae.activations import ActivationSource
from temporal_sae.activations.given import as_source
from temporal_sae.activations.source import ROWS
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.eval import AutoEvaluation
from temporal_sae.experiment.determinism import deterministic_on_cpu
from temporal_sae.files import write_json
from temporal_sae.loss import OrthogonalityLoss
from temporal_sae.metrics import finite_leaves
from temporal_sae.registry import components
from temporal_sae.sae import SparseAutoencoder, load_sae
from temporal_sae.tracker import CoActivationTracker, NoTracker
from temporal_sae.training import (
    About,
    Checkpoints,
    JsonlLogger,
    NoLogger,
    Parts,
    ProgressDisplay,
    Stopped,
    Trainer,
)
from temporal_sae.training.checkpoint import NoCheckpoints
from temporal_sae.training.loggers import METRICS, Metrics
from temporal_sae.training.progress import NoProgress

STEPS_WANTED = 500  # of short runs, as long as batches do not get too small
SMALLEST_BATCH, LARGEST_BATCH = 64, 2048


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
    sae: str | SparseAutoencoder = "topk",
    *,
    d_sae: int = 4096,
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
            files; an iterable of batches [n, d_in]; or an `ActivationSource`.
        sae: an architecture (`topk`, `batch_topk`, `standard`, `jumprelu`, `gated`, `matryoshka`),
            or an SAE, which is trained in place.
        d_sae: number of latents.
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
            `results.json`; None: nothing is written.
        progress: show how far training is, also in a notebook.
        n_sequences: held-out sequences (of 128 rows where there is no text) for the evaluation.
        options: of the architecture (`k`, `l1_weight`, …) and of `Trainer` (`lr`, `precision`, …).

    Raises:
        InvalidOption, RunError: in one line, what is wrong and what is allowed.
        KeyboardInterrupt: Ctrl-C; a checkpoint is in the folder, if there is one.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    rows = 4096 if num_tokens is None else min(4096, num_tokens // 10)
    source = as_source(x, device, held_out_fraction, held_out_rows=rows)
    source.open()
    source.why_not(ROWS)  # raises where held-out rows are damaged, and not only after all training
    n_tokens = source.rows_in_pass if num_tokens is None else num_tokens
    if n_tokens is None:
        raise InvalidOption("num_tokens", None, f"given for {source.name}, whose length is unknown")
    if batch_size is None:
        batch_size = min(LARGEST_BATCH, max(SMALLEST_BATCH, n_tokens // STEPS_WANTED))
    cuda = [source.device] if source.device.type == "cuda" else []
    with torch.random.fork_rng(cuda), deterministic_on_cpu(source.device):
        torch.manual_seed(seed)
        of_trainer, of_sae = divided(options, sae)
        trainer = Trainer(num_tokens=n_tokens, batch_size=batch_size, **of_trainer)
        model = made(sae, {"d_in": source.d_in, "d_sae": d_sae, **of_sae}).to(source.device)
        history, place = _History(), None if folder is None else Path(folder)
        parts = Parts(
            sae=model,
            batches=None,
            tracker=made_tracker(tracker, model.d_sae, source.device),
            penalty=made_penalty(loss),
            logger=history if place is None else JsonlLogger(ready(place)),
            checkpoints=NoCheckpoints() if place is None else Checkpoints(place / "checkpoints"),
            progress=ProgressDisplay(trainer.total_steps, Console()) if progress else NoProgress(),
            finetune=load_sae(finetune) if isinstance(finetune, (str, Path)) else finetune,
        )
        parts.penalty.check_tracker(parts.tracker)
        stream = source.stream(batch_size, seed, ordered=parts.tracker.stream == "ordered")
        parts.batches = stream
        parts.logger.start(About({}))
        try:
            with stream.released():
                state = trainer.fit(parts)
        except Stopped as stopped:
            raise KeyboardInterrupt(str(stopped)) from None
        model.fold_input_scale(stream.scale)
        sections = evaluated(model, source, n_sequences)
    result = TrainedSAE(
        model,
        parts.tracker,
        history.steps if place is None else read_history(place),
        dict(leaf for section in sections.values() for leaf in finite_leaves(section["metrics"])),
        source,
        stream.scale,
        state.seconds,
    )
    if place is not None:
        result.save(place / "sae")
        write_json(place / "results.json", sections)
    return result


def evaluated(sae: SparseAutoencoder, source: ActivationSource, n_sequences: int) -> dict[str, Any]:
    """Return the metrics that the source allows, by section; none where nothing is held out."""
    options = AutoEvaluation(
        n_reconstruction_sequences=min(n_sequences, 128), n_sparsity_sequences=n_sequences
    )
    found: dict[str, Any] = {}
    for evaluation in options.chosen(source):
        found |= evaluation.sections(sae, source)
    return found


def divided(options: Mapping[str, Any], sae: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of the trainer, and those of the architecture.

    Raises:
        InvalidOption: one is of neither, or the SAE that is given has its options already.
    """
    trainer = inspect.signature(Trainer).parameters
    own = (
        {}
        if isinstance(sae, SparseAutoencoder)
        else inspect.signature(architecture(sae)).parameters
    )
    for name in options:
        if name not in trainer and name not in own:
            known = ", ".join(sorted({*trainer, *own} - {"d_in"}))
            raise InvalidOption(name, options[name], f"left out; the options are {known}")
    of_trainer = {name: value for name, value in options.items() if name in trainer}
    return of_trainer, {n: value for n, value in options.items() if n not in trainer}


def architecture(name: Any) -> type[SparseAutoencoder]:
    """Return the class of an architecture.

    Raises:
        InvalidOption: there is none of that name.
    """
    known = {cls.trained_as: cls for cls in components("sae")}
    if name not in known:
        raise InvalidOption("sae", name, f"one of {', '.join(sorted(known))}, or an SAE")
    return known[name]


def made(sae: Any, options: dict[str, Any]) -> SparseAutoencoder:
    """Return the SAE itself, or one of that architecture."""
    if not isinstance(sae, SparseAutoencoder):
        return architecture(sae)(**options)
    if sae.d_in != options["d_in"]:
        allowed = f"an SAE with d_in {options['d_in']}, as the activations have"
        raise InvalidOption("sae", f"one with d_in {sae.d_in}", allowed)
    return sae


def made_tracker(given: Any, d_sae: int, device: torch.device) -> Any:
    """Return the tracker itself, or one with the options that are given."""
    if given is None:
        return NoTracker(d_sae, device=device)
    if given == "co_activation" or isinstance(given, Mapping):
        options = given if isinstance(given, Mapping) else {}
        return CoActivationTracker(d_sae, device=device, **options)
    if not hasattr(given, "update"):
        raise InvalidOption("tracker", given, "co_activation, a dictionary of options or a tracker")
    return given


def made_penalty(given: Any) -> Any:
    """Return the penalty itself, or one with the options that are given."""
    if given is None:
        return OrthogonalityLoss(ortho_weight=0.0)
    if given == "orthogonality" or isinstance(given, Mapping):
        return OrthogonalityLoss(**(given if isinstance(given, Mapping) else {}))
    if not callable(given):
        raise InvalidOption("loss", given, "orthogonality, a dictionary of options or a penalty")
    return given


def ready(folder: Path) -> Path:
    """Return the folder, made if it is missing.

    Raises:
        RunError: it cannot be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: must be a folder that can be written ({error})") from error
    return folder


def read_history(folder: Path) -> list[Metrics]:
    """Return the metrics of all logged steps, those of earlier parts of the run too."""
    lines = (folder / METRICS).read_text().splitlines()
    return [json.loads(line) for line in lines]
