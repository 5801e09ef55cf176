"""What a person sees while a run trains: a live bar, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0


class ProgressDisplay:
    """Shows tokens/s, loss, explained variance, L0, dead share and the time left.

    Args:
        total_steps: length of the run.
        console: where to print.
    """

    def __init__(self, total_steps: int, console: Console) -> None:
        self.total_steps, self.console = total_steps, console
        self._bar: Progress | None = None
        self._started = self._last_line = time.monotonic()
        self._first_step = 0

    def __enter__(self) -> ProgressDisplay:
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(bar_width=24),
                TextColumn("{task.completed}/{task.total}  {task.fields[summary]}"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._task = self._bar.add_task("training", total=self.total_steps, summary="")
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def start_at(self, step: int) -> None:
        """The run continues at `step`; the time left is judged from there."""
        self._first_step = step

    def show(self, step: int, metrics: dict[str, float]) -> None:
        """Show the numbers of a logged step."""
        summary = summarise(metrics)
        if self._bar:
            self._bar.update(self._task, completed=step, summary=summary)
            return
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES or step == self.total_steps:
            self._last_line = now
            done = max(1, step - self._first_step)
            eta = (now - self._started) / done * (self.total_steps - step)
            line = f"step {step}/{self.total_steps}  {summary}  eta {eta:.0f} s"
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def summarise(metrics: dict[str, float]) -> str:
    """The few numbers that tell whether a run goes well."""
    return (
        f"{metrics['tokens_per_second']:,.0f} tokens/s  loss {metrics['loss']:.4g}  "
        f"EV {metrics['explained_variance']:.3f}  L0 {metrics['l0']:.1f}  "
        f"dead {metrics['dead_share']:.1%}"
    )
