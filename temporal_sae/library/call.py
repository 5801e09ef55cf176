"""One SAE of a call of `train` or `train_many`: from its arguments to what has been trained."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from temporal_sae.activations import ActivationSource
from temporal_sae.atlas.show import show_pages
from temporal_sae.errors import InvalidOption, RunError, check_int
from temporal_sae.eval.subject import given
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
from temporal_sae.training import JsonlLogger, Lane, NoLogger, Parts, SharedStream, Trainer
from temporal_sae.training.checkpoint import NoCheckpoints
from temporal_sae.training.loggers import About, Metrics
from temporal_sae.training.parts import in_order

ATLAS = "python -m temporal_sae.atlas"


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
        folder: that `train` was given.
    """

    sae: SparseAutoencoder
    tracker: Any
    history: list[Metrics]
    metrics: Metrics
    source: ActivationSource
    scale: float
    seconds: float
    folder: Path | None = None

    def __repr__(self) -> str:
        shown = ("explained_variance", "l0")
        scores = [f"{name}={self.metrics[name]:.3g}" for name in shown if name in self.metrics]
        what = f"{self.sae.trained_as}, {self.sae.d_sae} latents, {self.source.name}"
        return f"TrainedSAE({', '.join([what, *scores])})"

    def save(self, folder: str | Path) -> None:
        """Write the SAE, so that `load_sae` and SAELens read it."""
        self.sae.save(folder, self.source.metadata())

    def show(self) -> Path:
        """Show the atlas in its folder, in a notebook below the cell; returns the path of the page.

        Raises:
            RunError: there is no atlas, with the command that builds it.
        """
        if self.folder is None:
            raise RunError(
                "show: the SAE has no folder to hold an atlas; train it with folder=FOLDER, "
                f"or save it with save(FOLDER) and {ATLAS} FOLDER KEY=VALUE… builds one"
            )
        atlas = self.folder / "atlas"
        words = shlex.join([str(self.folder / "sae"), f"--output={atlas}"])
        return show_pages(atlas, f"{ATLAS} {words} KEY=VALUE… builds it, with keys of the text")


class _History(NoLogger):
    """Keeps the metrics in memory."""

    def __init__(self) -> None:
        self.steps: list[Metrics] = []

    def log(self, step: int, metrics: Metrics) -> None:
        self.steps.append({"step": step, **metrics})


@dataclass
class Shared:
    """Arguments that are the same for all SAEs of a call."""

    batch_size: int | None
    seed: int
    held_out_fraction: float
    held_out_rows: int = 0


@dataclass
class Wanted:
    """Arguments of one SAE, see `train`."""

    sae: Any = None
    d_sae: int | None = None
    tracker: Any = "co_activation"
    loss: Any = "orthogonality"
    num_tokens: int | None = None
    finetune: Any = None
    folder: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)


class Call:
    """One SAE of a call.

    Args:
        wanted: its arguments.

    Raises:
        InvalidOption, RunError: one is not allowed, or the folder is not this call's.
    """

    def __init__(self, wanted: Wanted) -> None:
        self.wanted, self.start = wanted, find_start(wanted.finetune)
        self.sae = wanted.sae
        if self.sae is None:
            self.sae = ARCHITECTURE if self.start is None else self.start.trained_as
        self._of_trainer, self._of_sae = divided(wanted.options, self.sae)
        afresh = wanted.options.get("resume") == "never"
        self.place = None if wanted.folder is None else CallFolder(wanted.folder, afresh)
        self.earlier = None if self.place is None else self.place.earlier
        if wanted.num_tokens is not None:
            check_int("num_tokens", wanted.num_tokens, 1)

    def length(self, source: ActivationSource) -> int:
        """Return the rows to train on.

        Raises:
            InvalidOption: they are not given, and nobody knows how many there are.
        """
        wanted = self.wanted.num_tokens
        n_tokens = source.rows_in_pass if wanted is None else wanted
        if n_tokens is None:
            allowed = f"given for {source.name}, whose length is unknown"
            raise InvalidOption("num_tokens", None, allowed)
        return n_tokens

    def training(self, source: ActivationSource, stream: SharedStream, shared: Shared) -> Lane:
        """Build its parts, and note in its folder what is asked for.

        Raises:
            InvalidOption, RunError: an option is not allowed, or the folder holds another call.
        """
        torch.manual_seed(shared.seed)
        n_tokens, batch_size = self.length(source), shared.batch_size
        assert batch_size is not None
        trainer = Trainer(num_tokens=n_tokens, batch_size=batch_size, **self._of_trainer)
        model = make_sae(self.sae, source.d_in, self.wanted.d_sae, self.start, self._of_sae)
        model.to(source.device)
        self.model, self._history = model, _History()
        self.tracker = make_tracker(self.wanted.tracker, model.d_sae, source.device)
        if is_ordered := in_order(self.tracker):
            source.check_order()
        view = stream.view(ordered=is_ordered)
        parts = Parts(
            sae=model,
            batches=view,
            tracker=self.tracker,
            penalty=make_penalty(self.wanted.loss),
            finetune=self.start,
            logger=self._history if self.place is None else JsonlLogger(self.place.path),
            checkpoints=NoCheckpoints() if self.place is None else self.place.checkpoints,
        )
        parts.penalty.check_tracker(parts.tracker)
        self._begin(shared)
        parts.logger.start(About({}))
        self.lane, self._view = Lane(trainer, parts, view), view
        return self.lane

    def _begin(self, shared: Shared) -> None:
        if self.place is None:
            return
        self.place.begin(
            {
                "batch_size": shared.batch_size,
                "held_out_rows": shared.held_out_rows,
                "held_out_fraction": shared.held_out_fraction,
                "sae": self.sae,
                "d_sae": self.model.d_sae,
                "tracker": self.wanted.tracker,
                "loss": self.wanted.loss,
                "finetune": self.wanted.finetune,
                "seed": shared.seed,
                **self.wanted.options,
            }
        )

    def fold_scale(self) -> None:
        """Let the SAE take activations as they are."""
        self.model.fold_input_scale(self._view.scale)

    def result(self, source: ActivationSource, found: dict[str, Any] | Exception) -> TrainedSAE:
        """Return what has been trained, which is also written where there is a folder.

        Args:
            source: the activations.
            found: the sections of the evaluation, or an error in their place.

        Raises:
            Exception: that one.
        """
        sections = given(found)
        leaves = (leaf for part in sections.values() for leaf in finite_leaves(part["metrics"]))
        steps = self._history.steps if self.place is None else self.place.history()
        seconds, scale = self.lane.run.seconds, self._view.scale
        folder = None if self.place is None else self.place.path
        known = source, scale, seconds, folder
        result = TrainedSAE(self.model, self.tracker, steps, dict(leaves), *known)
        if self.place is not None:
            result.save(self.place.path / "sae")
            write_json(self.place.path / "results.json", sections)
        return result
