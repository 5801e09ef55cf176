"""A sweep as a person sees it: one table of all jobs, live where there is a terminal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from temporal_sae.errors import printable
from temporal_sae.overrides.keys import varying_keys, what_varies
from temporal_sae.report.sweep_facts import JobStatus
from temporal_sae.terminal import wide

STATES = ("finished", "running", "queued", "stopped", "failed", "missing")
COLOURS = {"finished": "green", "running": "cyan", "failed": "red", "stopped": "yellow"}
# Which rows stay when there are more of them than lines.
FIRST_SHOWN = ("running", "failed", "stopped", "queued", "missing", "finished")
SECONDS_BETWEEN_PICTURES = 0.5
SHARE_OF_LOOKING = 0.02  # of a core, that the jobs could use: hundreds of folders take a while
LINES_AROUND = 6  # head and foot of the table, a line below it, and the prompt


class LiveTable:
    """Shows how a sweep goes on; whoever waits for the jobs calls `update` now and then.

    On a terminal it is a table that is drawn anew, at most twice a second; elsewhere a line for
    every change of a job's state.

    Args:
        statuses: tells how far the jobs are.
        console: where to print.
    """

    def __init__(self, statuses: Callable[[], list[JobStatus]], console: Console) -> None:
        self.statuses, self.console = statuses, console
        self._live: Live | None = None
        self._told: dict[int, str] = {}
        self._next = float("-inf")

    def __enter__(self) -> LiveTable:
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        else:
            self._told = {job.number: job.state for job in self.statuses()}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.update(now=True)
        if self._live:
            self._live.stop()

    def update(self, *, now: bool = False) -> None:
        """Look at the jobs and show what is new; does nothing if it has just been done."""
        began = time.monotonic()
        if not now and began < self._next:
            return
        statuses = self.statuses()
        took = time.monotonic() - began
        self._next = began + max(SECONDS_BETWEEN_PICTURES, took / SHARE_OF_LOOKING)
        if self._live:
            lines = max(3, self.console.height - LINES_AROUND)
            self._live.update(table_of(statuses, lines), refresh=True)
            return
        varying = varying_keys([s.overrides for s in statuses])
        for status in statuses:
            # Missing is what a job is for a moment that has ended and not said how.
            if status.state not in (self._told.get(status.number), "missing"):
                self._told[status.number] = status.state
                say(change(status, varying), self.console)


def table_of(statuses: Sequence[JobStatus], lines: int | None = None) -> Table:
    """Return a row per job; with `lines`, those that matter most if there are more jobs."""
    shown = most_telling(statuses, lines)
    varying = varying_keys([s.overrides for s in statuses])
    left_out = len(statuses) - len(shown)
    caption = summary(statuses) + (f"; {left_out} more jobs are not shown" if left_out else "")
    table = Table(caption=caption, caption_justify="left", box=None, pad_edge=False)
    for name in ("job", "state", "step", "tokens/s", "loss", "left"):
        table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
    table.add_column("overrides", overflow="fold")
    table.add_column("reason", overflow="fold")
    for status in shown:
        table.add_row(
            str(status.number),
            Text(status.state, style=COLOURS.get(status.state, "")),
            *numbers(status),
            Text(printable(what_varies(status.overrides, varying))),
            Text(status.reason or ""),
        )
    return table


def print_table(statuses: Sequence[JobStatus], console: Console | None = None) -> None:
    """Print the whole table, with the summary below it."""
    wide(console or Console()).print(table_of(statuses))


def say(line: str, console: Console | None = None) -> None:
    """Print a line as it is, in full."""
    (console or Console()).print(line, markup=False, highlight=False, soft_wrap=True)


def most_telling(statuses: Sequence[JobStatus], lines: int | None) -> list[JobStatus]:
    """At most `lines` jobs, by number; those that run or have failed before those that are done."""
    ranked = sorted(statuses, key=lambda s: (FIRST_SHOWN.index(s.state), s.number))
    return sorted(ranked[:lines], key=lambda s: s.number)


def numbers(status: JobStatus) -> tuple[str, str, str, str]:
    """Step, tokens a second, loss and the time left, as they are shown."""
    step = f"{status.step}/{status.total_steps}" if status.total_steps else ""
    speed = "" if status.tokens_per_second is None else f"{status.tokens_per_second:,.0f}"
    loss = "" if status.loss is None else f"{status.loss:.4g}"
    left = "" if status.eta_seconds is None else duration(status.eta_seconds)
    return step, speed, loss, left


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 05`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d}"


def change(status: JobStatus, varying: set[str]) -> str:
    """Return one line on the state that a job has come to."""
    step = f" at step {status.step}/{status.total_steps}" if status.step else ""
    why = f": {status.reason}" if status.reason else ""
    told = f"{status.state}{step}{why}"
    if status.reason and status.reason.startswith(status.state):  # `stopped at step 9`
        told = status.reason
    return f"{label(status.number, status.overrides, varying)}: {told}"


def label(number: int, overrides: Sequence[str], varying: Collection[str]) -> str:
    """`job 3 (tracker.window_size=500)`."""
    what = printable(what_varies(overrides, varying))
    return f"job {number}{f' ({what})' if what else ''}"


def summary(statuses: Sequence[JobStatus]) -> str:
    """`4 of 6 finished, 1 running, 1 failed`."""
    counts = Counter(status.state for status in statuses)
    others = [f"{counts[state]} {state}" for state in STATES[1:] if counts[state]]
    return ", ".join([f"{counts['finished']} of {len(statuses)} finished", *others])
