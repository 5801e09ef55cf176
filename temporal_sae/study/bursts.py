"""Bursts as a sign that a latent is of a topic and not of syntax, without any penalty.

A latent's burstiness D is how much more its count varies between windows than it would by chance
(variance = μ + D μ² over windows of mean μ). The latents that tell a package of the standard
library from the others, which is a topic, are compared with those that tell code, docstrings and
comments, which is syntax: the area under the curve (AUC) is the probability that one of the former
has the larger D. The same of their density says what frequency alone would tell.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from temporal_sae.activations import Harvest
from temporal_sae.activations.source import LANGUAGE_MODEL
from temporal_sae.atlas import Atlas
from temporal_sae.errors import RunError
from temporal_sae.eval.tasks.activations import CellActivations
from temporal_sae.eval.tasks.probes import most_different
from temporal_sae.eval.tasks.snippets import SnippetOptions, standard_library
from temporal_sae.eval.tasks.sparse_probing import QUESTIONS, cells_of, classes_of, draw_splits
from temporal_sae.files import write_atomically

BEST, ROWS, TEXTS = 20, 60, 32  # latents a class, snippets a cell, texts at once
RESAMPLES = 2000
FILE = "bursts.csv"
TOPIC, SYNTAX = QUESTIONS
COLUMNS = ("question", "class", "latent", "burstiness", "density")
PREDICTIONS: tuple[tuple[str, str, Callable[[float], bool]], ...] = (
    ("burstiness", "above .8", lambda auc: auc > 0.8),
    ("density", "from .35 to .65", lambda auc: 0.35 <= auc <= 0.65),
)


class Told(NamedTuple):
    """A latent that tells a class from the others of its question."""

    question: str
    name: str
    latent: int
    burstiness: float
    density: float


class Area(NamedTuple):
    """An AUC with its 95 % interval over resampled latents."""

    value: float
    low: float
    high: float


def describe(folder: Path, data: Path) -> Path:
    """Write the latents of a run that its probes use, with what its atlas says of them.

    Args:
        folder: of a run on a language model; its atlas has to be there.
        data: where the table goes.

    Raises:
        RunError: there is no atlas, or something else that a person can correct.
    """
    from temporal_sae.atlas.__main__ import opened_pass  # slow to import

    latents = Atlas(folder / "atlas").latents
    burstiness, density = (latents[name].to_numpy() for name in ("burstiness", "density"))
    sae, source, _ = opened_pass(folder, [], folder / "atlas")
    if reason := source.why_not(LANGUAGE_MODEL):
        raise RunError(f"{folder}: cannot read the snippets ({reason})")
    snippets = standard_library(SnippetOptions())
    found = probe_latents(CellActivations(snippets, sae, cast(Harvest, source), TEXTS))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for question, name, latent in found:
        values = (f"{column[latent]:.6g}" for column in (burstiness, density))
        writer.writerow([question, name, latent, *values])
    data.mkdir(parents=True, exist_ok=True)
    write_atomically(data / FILE, text.getvalue())
    return data / FILE


def probe_latents(activations: CellActivations) -> Iterator[tuple[str, str, int]]:
    """Yield (question, class, latent) for the best latents of every class.

    They are those whose means in both classes differ most, as sparse probing chooses them.
    """
    cells = cells_of(activations.snippets)
    train = activations.table("train", cells, ROWS)
    for question in QUESTIONS:
        classes = classes_of(question, cells)
        rows = [train.of(*own) for own in classes.values()]
        splits = draw_splits(rows, rows, torch.Generator().manual_seed(0))
        for name, split in zip(classes, splits, strict=True):
            features = train.f[split.train.numbers]
            for latent in most_different(features, split.train.labels, BEST).tolist():
                yield question, name, latent


def read_latents(path: Path) -> list[Told]:
    """Return the rows of a committed table.

    Raises:
        RunError: it has other columns.
    """
    lines = list(csv.reader(io.StringIO(path.read_text())))
    if not lines or tuple(lines[0]) != COLUMNS:
        raise RunError(f"{path}: must have the columns {', '.join(COLUMNS)}")
    return [Told(q, n, int(i), float(b), float(d)) for q, n, i, b, d in lines[1:]]


def only_of(rows: Sequence[Told], question: str) -> list[Told]:
    """Return the latents of one question that no class of the other one shares, each once.

    A latent that never fired in the atlas' text has no burstiness, and is left out.
    """
    others = {row.latent for row in rows if row.question != question}
    fired = (row for row in rows if math.isfinite(row.burstiness))
    own = {row.latent: row for row in fired if row.question == question}
    return [row for latent, row in sorted(own.items()) if latent not in others]


def area(topic: Sequence[float], syntax: Sequence[float]) -> Area:
    """Return the probability that a value of the first exceeds one of the second, ties half."""
    first, second = np.asarray(topic), np.asarray(syntax)
    above = (first[:, None] > second) + 0.5 * (first[:, None] == second)
    rng = np.random.default_rng(0)

    def some(n: int) -> NDArray[np.int64]:
        return rng.integers(n, size=n)

    drawn = [above[np.ix_(some(len(first)), some(len(second)))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Area(float(above.mean()), float(low), float(high))


def section(path: Path) -> Iterator[str]:
    """Yield the part of the page."""
    rows = read_latents(path)
    topic, syntax = only_of(rows, TOPIC), only_of(rows, SYNTAX)
    yield "## Bursts and topics\n"
    yield (
        f"The {BEST} best latents for each package and each kind of text, on the bundled model: "
        f"{len(topic)} tell packages alone, {len(syntax)} kinds alone. Their burstiness and their "
        "density are those of the atlas. AUC: how often a latent of a package has the larger "
        "value, with a 95 % interval over latents.\n"
    )
    lines = ["| | AUC | 95 % interval | predicted | |", "| --- | ---: | ---: | --- | --- |"]
    for name, predicted, as_predicted in PREDICTIONS:
        found = area([getattr(r, name) for r in topic], [getattr(r, name) for r in syntax])
        verdict = "holds" if as_predicted(found.value) else "does not hold"
        interval = f"[{found.low:.3f}, {found.high:.3f}]"
        lines.append(f"| {name} | {found.value:.3f} | {interval} | {predicted} | {verdict} |")
    yield "\n".join(lines) + "\n"
