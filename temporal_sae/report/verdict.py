"""Did the method help? What the numbers beside a run support, in words and as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

from temporal_sae.errors import RunError, printable
from temporal_sae.eval.statistics import IMPROVEMENT, WORSE
from temporal_sae.metrics import fitting
from temporal_sae.report.comparison import training_config
from temporal_sae.report.neighbours import Told
from temporal_sae.report.paired import Comparison, Row, Run, caveat, compare_groups, run_of
from temporal_sae.report.tables import Table, number
from temporal_sae.report.twins import Twins, twins
from temporal_sae.schemas import ComparedConfig

MOST_NAMED = 4
WITHOUT = "tracker=off loss.ortho_weight=0"


class Judgement(NamedTuple):
    """A verdict on a run.

    Attributes:
        sentences: in words.
        table: the scores that tables show, beside those of its twins; None where there are none.
        rest: the rest of the scores, likewise.
    """

    sentences: list[str]
    table: Table | None
    rest: Table | None


def judge(folder: Path, own: Told, command: str) -> Judgement:
    """Return what can be said of a run's method.

    Args:
        folder: of the run.
        own: its config and results.
        command: repeats the run.
    """
    if not training_config(own.results).get("ortho_weight"):
        said = "This run has no orthogonality penalty: others are judged by it, and it by none."
        return Judgement([said], None, None)
    found = twins(folder, own)
    if found is None:
        said = "Whether the penalty helped cannot be said: no finished run beside this one is the "
        how = f"`{command} {WITHOUT}`, into a folder beside this one, trains one."
        return Judgement([f"{said}same without it.", how], None, None)
    try:
        compared = compare_groups(*(as_runs(group) for group in (found.ours, found.theirs)))
    except RunError as error:
        why = f"Not comparable with the same without {found.lacks}: {printable(str(error))}."
        return Judgement([why], None, None)
    return Judgement(sentences(compared, found), *tables_of(compared, found))


def as_runs(group: dict[Path, Told]) -> list[Run]:
    """Return the runs of a group as they are compared."""
    return [
        run_of(path, told.seed, cast(ComparedConfig, told.config), told.results)
        for path, told in group.items()
    ]


def sentences(compared: Comparison, found: Twins) -> list[str]:
    """Return what a comparison supports."""
    n = len(compared.seeds)
    beside = f"the same SAE without {found.lacks}"
    rows = [row for row in compared.rows if label_of(row)]
    if n == 1:
        headline = [f"{label_of(row)} {shown(row)}" for row in rows if is_headline(row)]
        return [
            f"Beside {beside}, with the same seed: {'; '.join(headline)}.",
            "One pair of runs says nothing about what other seeds would give, so no difference "
            "here is a result; both with other values of `seed`, beside these, would tell.",
        ]
    better, worse = (of_verdict(rows, word) for word in (IMPROVEMENT, WORSE))
    unclear = len(rows) - len(better) - len(worse)
    said = [f"Over {n} seeds, against {beside}:"]
    said += [f"better in {named(better)}."] if better else ["better in no score that is shown."]
    if worse:
        said.append(f"Worse in {named(worse)}.")
    said.append(f"No clear difference in {unclear} of {len(rows)}, which is not the same as none.")
    return [" ".join(said), caveat(compared)]


def of_verdict(rows: Sequence[Row], word: str) -> list[Row]:
    """Return the rows with a verdict, those of headline metrics first."""
    return sorted((r for r in rows if r.difference.verdict == word), key=is_headline, reverse=True)


def named(rows: Sequence[Row]) -> str:
    """Return scores with their differences, and how many more there are."""
    told = [
        f"{label_of(row)} ({row.difference.mean:+.3g}, 95 % interval "
        f"{row.difference.low:+.3g} to {row.difference.high:+.3g})"
        for row in rows[:MOST_NAMED]
    ]
    more = len(rows) - len(told)
    return ", ".join(told) + (f" and {more} more" if more else "")


def tables_of(compared: Comparison, found: Twins) -> tuple[Table, Table]:
    """Return the scores that tables show, those of headlines first, and the others."""
    n = len(compared.seeds)
    seeds = f"{n} seeds" if n > 1 else "one seed"
    title = f"This config beside the same without {found.lacks}, {seeds}"
    header = ["score", "with", "without", "difference", "95 % interval", "verdict"]
    shown = sorted((row for row in compared.rows if label_of(row)), key=is_headline, reverse=True)
    rest = [row for row in compared.rows if not label_of(row)]
    notes = [printable(note) for note in compared.notes]
    return (
        Table("twins", title, header, [cells_of(row) for row in shown], notes),
        Table("twins_rest", f"{title}: other scores", header, [cells_of(r) for r in rest], []),
    )


def cells_of(row: Row) -> list[str]:
    """Return the cells of a row."""
    found = row.difference
    has_interval = not math.isnan(found.low)
    interval = f"{found.low:+.3g} to {found.high:+.3g}" if has_interval else "–"
    name = label_of(row) or printable(row.metric)
    return [name, *means_of(row), f"{found.mean:+.3g}", interval, found.verdict]


def label_of(row: Row) -> str:
    """Return what tables call a metric; empty where they leave it out."""
    declared = fitting(row.metric.rpartition(": ")[2])
    return declared[0].label if declared else ""


def is_headline(row: Row) -> bool:
    """Return True for a metric of the table at a sweep's end."""
    declared = fitting(row.metric.rpartition(": ")[2])
    return bool(declared) and declared[0].headline


def shown(row: Row) -> str:
    """Return the values of a pair."""
    return " against ".join(means_of(row))


def means_of(row: Row) -> list[str]:
    """Return both means, as tables show the metric."""
    declared = fitting(row.metric.rpartition(": ")[2])
    form = declared[0].form.format if declared and declared[0].label else number
    return [form(mean) for mean in (row.mean_a, row.mean_b)]
