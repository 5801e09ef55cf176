"""The objective over two options at a time, as grids of cells."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from statistics import mean
from typing import NamedTuple

from temporal_sae.metrics import better_when_higher
from temporal_sae.report.figures import Cell, Figure, Grid
from temporal_sae.report.pareto import Named
from temporal_sae.report.sweep_facts import JobFacts

SEED = "seed"
MOST_GRIDS = 12
MOST_VALUES = 12  # of an option


class Choice(NamedTuple):
    """Options that make a grid: two that span it, and others of which each grid has one value."""

    rows: str
    columns: str
    others: list[str]


def grids(facts: Named, jobs: Sequence[JobFacts], keys: Sequence[str] = ()) -> list[Figure]:
    """Return a grid for each setting of the options that do not span it.

    Args:
        facts: names the runs.
        jobs: that have finished.
        keys: of the options that vary; found from the jobs where they are not given.
    """
    values = {
        key: sorted({job.options[key] for job in jobs if key in job.options}, key=in_order)
        for key in dict.fromkeys(keys or [k for job in jobs for k in job.options])
        if key != SEED
    }
    spans = [key for key, found in values.items() if 1 < len(found) <= MOST_VALUES]
    if len(spans) < 2:
        return []
    columns, rows, *others = sorted(spans, key=lambda key: -len(values[key]))
    settings = list(product(*(values[key] for key in others)))
    if len(settings) > MOST_GRIDS:
        settings, others = [()], []
    choice = Choice(rows, columns, others)
    found = [grid(facts, jobs, choice, values, setting) for setting in settings]
    return [g for g in found if g is not None]


def grid(
    facts: Named,
    jobs: Sequence[JobFacts],
    choice: Choice,
    values: dict[str, list[str]],
    setting: tuple[str, ...],
) -> Figure | None:
    """Return the grid of one setting of the other options; None if it has fewer than two runs."""
    wanted = dict(zip(choice.others, setting, strict=True))
    own = [job for job in jobs if all(job.options.get(k) == v for k, v in wanted.items())]
    spans = (choice.rows, choice.columns)
    own = [j for j in own if j.objective is not None and all(key in j.options for key in spans)]
    if len(own) < 2:
        return None
    names, heads = (
        [v for v in values[key] if any(job.options.get(key) == v for job in own)] for key in spans
    )

    def cell(name: str, head: str) -> Cell:
        here = [
            job
            for job in own
            if job.options.get(choice.rows) == name and job.options.get(choice.columns) == head
        ]
        if not here:
            return Cell(None)
        higher = better_when_higher(here[0].objective_name)
        best = (min if higher is False else max)(here, key=lambda job: job.objective or 0.0)
        told = f"{len(here)} runs, the best one: " if len(here) > 1 else ""
        average = mean(job.objective or 0.0 for job in here)
        return Cell(average, told + facts.name(best), facts.link(best))

    label = f"{choice.rows} (rows) by {choice.columns} (columns)"
    chart = Grid(label, names, heads, [[cell(name, head) for head in heads] for name in names])
    where = ", ".join(f"{key}={value}" for key, value in wanted.items())
    return Figure(own[0].objective_name + (f" at {where}" if where else ""), chart)


def in_order(text: str) -> tuple[bool, float, str]:
    """Return a key that sorts numbers by size, and before words."""
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text
