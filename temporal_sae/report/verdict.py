"""Did the method help? What the numbers beside a run support, in words and as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

from temporal_sae.errors import RunError, printable
from temporal_sae.metrics import DASH, fitting
from temporal_sae.report.comparison import training_config
from temporal_sae.report.neighbours import Told
from temporal_sae.report.paired import Comparison, Run, compare_groups, run_of
from temporal_sae.report.primary import Primary, primary_of_runs, sentence_of
from temporal_sae.report.rule import IMPROVEMENT, WORSE, Judged, by_rule, correction
from temporal_sae.report.tables import Table, number, shown_p
from temporal_sae.report.twins import twins
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
    primary = primary_of_runs([*found.ours, *found.theirs])
    rows = by_rule({"": compared.rows}, primary and primary.counts)
    told = sentences(rows, len(compared.seeds), found.lacks, primary)
    return Judgement(told, *tables_of(rows, compared, found.lacks))


def as_runs(group: dict[Path, Told]) -> list[Run]:
    """Return the runs of a group as they are compared."""
    return [
        run_of(path, told.seed, cast(ComparedConfig, told.config), told.results)
        for path, told in group.items()
    ]


def sentences(
    rows: Sequence[Judged], n_seeds: int, lacks: str, primary: Primary | None
) -> list[str]:
    """Return what a comparison supports.

    Args:
        rows: all metrics, judged together.
        n_seeds: seeds that both have.
        lacks: what the other lacks.
        primary: what was fixed beforehand.
    """
    beside = f"the same SAE without {lacks}"
    shown_rows = [found for found in rows if label_of(found) or found.primary]
    if n_seeds == 1:
        headline = [f"{label_of(found)} {shown(found)}" for found in rows if is_headline(found)]
        return [
            f"Beside {beside}, with the same seed: {'; '.join(headline)}.",
            "One pair of runs says nothing about what other seeds would give, so no difference "
            "here is a result; both with other values of `seed`, beside these, would tell.",
        ]
    better, worse = (of_verdict(shown_rows, word) for word in (IMPROVEMENT, WORSE))
    unclear = len(shown_rows) - len(better) - len(worse)
    said = [f"Over {n_seeds} seeds, against {beside}:"]
    said += [f"better in {named(better)}."] if better else ["better in no score that is shown."]
    if worse:
        said.append(f"Worse in {named(worse)}.")
    total = len(shown_rows)
    said.append(f"No clear difference in {unclear} of {total}, which is not the same as none.")
    return [" ".join(said), sentence_of(primary), correction(rows)]


def of_verdict(rows: Sequence[Judged], word: str) -> list[Judged]:
    """Return the rows with a verdict, the primary and headline metrics first."""
    own = [found for found in rows if found.verdict == word]
    return sorted(own, key=lambda found: (found.primary, is_headline(found)), reverse=True)


def named(rows: Sequence[Judged]) -> str:
    """Return scores with their differences, and how many more there are."""
    told = [
        f"{name_of(found)} ({found.row.test.mean:+.3g}, 95 % interval "
        f"{found.row.test.low:+.3g} to {found.row.test.high:+.3g})"
        for found in rows[:MOST_NAMED]
    ]
    more = len(rows) - len(told)
    return ", ".join(told) + (f" and {more} more" if more else "")


def tables_of(rows: Sequence[Judged], compared: Comparison, lacks: str) -> tuple[Table, Table]:
    """Return the scores that tables show, the primary and headlines first, and the others."""
    n = len(compared.seeds)
    seeds = f"{n} seeds" if n > 1 else "one seed"
    title = f"This config beside the same without {lacks}, {seeds}"
    header = ["score", "with", "without", "difference", "95 % interval", "p", "p (Holm)", "verdict"]
    shown = [found for found in rows if label_of(found) or found.primary]
    shown.sort(key=lambda found: (found.primary, is_headline(found)), reverse=True)
    rest = [found for found in rows if found not in shown]
    notes = [printable(note) for note in compared.notes]
    return (
        Table("twins", title, header, [cells_of(found) for found in shown], notes),
        Table("twins_rest", f"{title}: other scores", header, [cells_of(r) for r in rest], []),
    )


def cells_of(found: Judged) -> list[str]:
    """Return the cells of a row."""
    test = found.row.test
    interval = DASH if math.isnan(test.low) else f"{test.low:+.3g} to {test.high:+.3g}"
    p = [shown_p(test.p), shown_p(found.holm)]
    return [name_of(found), *means_of(found), f"{test.mean:+.3g}", interval, *p, found.verdict]


def name_of(found: Judged) -> str:
    """Return a metric as tables call it, and whether it is the primary one."""
    name = label_of(found) or printable(found.row.metric)
    return f"{name} (primary)" if found.primary else name


def label_of(found: Judged) -> str:
    """Return what tables call a metric; empty where they leave it out."""
    declared = fitting(found.row.name)
    return declared[0].label if declared else ""


def is_headline(found: Judged) -> bool:
    """Return True for a metric of the table at a sweep's end."""
    declared = fitting(found.row.name)
    return bool(declared) and declared[0].headline


def shown(found: Judged) -> str:
    """Return the values of a pair."""
    return " against ".join(means_of(found))


def means_of(found: Judged) -> list[str]:
    """Return both means, as tables show the metric."""
    declared = fitting(found.row.name)
    form = declared[0].form.format if declared and declared[0].label else number
    return [form(mean) for mean in (found.row.mean_a, found.row.mean_b)]
