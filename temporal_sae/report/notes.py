"""The story of a run as Markdown."""

from __future__ import annotations

from temporal_sae.errors import printable
from temporal_sae.report.run_facts import FILES, RunFacts
from temporal_sae.report.tables import Table, to_markdown


def notes_of(facts: RunFacts) -> str:
    """Return the notes on a run."""
    parts = [
        "# Notes on a run",
        facts.headline,
        "## Did it help",
        *facts.judgement.sentences,
        *section(facts.judgement.table),
        "## What it measured",
        to_markdown(facts.measured),
        *facts.measured.notes,
        *tasks_part(facts.tasks),
        "## What the tracker saw",
        to_markdown(facts.tracker) if facts.tracker.rows else "The tracker was off.",
        "## What the method cost",
        facts.cost,
        "## Where everything is",
        "\n".join(f"- `{name}`: {what}" for name, what in FILES.items()),
        f"Repeat it, in a new folder, with `{facts.record['command']}`.",
    ]
    lines = "\n\n".join(parts).split("\n")
    return "".join(printable(line) + "\n" for line in lines)


def section(table: Table | None) -> list[str]:
    """Return a table with its notes, if there is one."""
    return [] if table is None else [to_markdown(table), *table.notes]


def tasks_part(tasks: Table) -> list[str]:
    """Return the section on the tasks, if some were done."""
    return [f"## {tasks.title}", *tasks.notes, to_markdown(tasks)] if tasks.rows else []
