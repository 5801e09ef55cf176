"""The short answers of a study: every contrast in every setting, and what became of predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from temporal_sae.study.analysis import SAME, Compared, compare
from temporal_sae.study.design import Contrast, Design
from temporal_sae.study.predictions import Prediction
from temporal_sae.study.table import Row
from temporal_sae.study.words import plainly, row


def answers(design: Design, rows: Sequence[Row], settings: Sequence[str]) -> Iterator[str]:
    """Yield a table of the differences that were found, a row for each contrast."""
    if not settings or not design.contrasts:
        return
    found = {name: compare(design, rows, name) for name in settings}
    lines = [row("question", *settings), row(*["---"] * (1 + len(settings)))]
    for contrast in design.contrasts:
        told = f"{contrast.question}: {contrast.arm} against {contrast.control}"
        lines.append(row(told, *(answer(contrast, found[name]) for name in settings)))
    yield (
        "Differences that were found, arm less control at the same cost, by p values that are "
        "corrected for all contrasts of the setting; – where none was. Details follow.\n"
    )
    yield "\n".join(lines) + "\n"


def answer(contrast: Contrast, compared: Sequence[Compared]) -> str:
    """Return the metrics in which two arms differ."""
    differ = [c for c in compared if c.contrast == contrast and c.verdict != SAME]
    told = (f"{plainly(c.metric)} {c.verdict} ({c.test.mean:+.3f})" for c in differ)
    return ", ".join(told) or "–"


def judged(
    design: Design, rows: Sequence[Row], settings: Sequence[str], predictions: Sequence[Prediction]
) -> Iterator[str]:
    """Yield a table of the predictions for settings that have been run."""
    lines = [row("predicted", "setting", "metric", "found", ""), row(*["---"] * 5)]
    for prediction in predictions:
        for setting in (name for name in prediction.settings if name in settings):
            for one in prediction.judged(design, rows, setting):
                verdict = "holds" if one.holds else "does not hold"
                lines.append(row(prediction.said, setting, plainly(one.metric), one.found, verdict))
    if len(lines) > 2:
        yield "Predictions, written down before the first run:\n"
        yield "\n".join(lines) + "\n"
