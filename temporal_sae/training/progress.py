"""Progress of a training run: a live bar, or plain lines where there is no terminal."""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from temporal_sae.training.stopwatch import now

SECONDS_BETWEEN_LINES = 10.0
SECONDS_OF_A_RATE = 20.0  # shown is what the last seconds were like, not the beginning
BAR_WIDTH = 12


class ProgressDisplay:
    """Shows tokens/s, the time left, loss, explained variance, L0 and dead share.

    Args:
        total_steps: length of the run.
        console: where to print.
        clock: seconds; they stand still while kernels are compiled.
    """

    def __init__(
        self, total_steps: int, console: Console, clock: Callable[[], float] = now
    ) -> None:
        self.total_steps, self.console, self.clock = total_steps, console, clock
        self._live: Live | None = None
        self._last_line = clock()
        self._recent: deque[tuple[float, int, float]] = deque()  # time, step, tokens

    def __enter__(self) -> ProgressDisplay:
        if self.console.is_terminal or self.console.is_jupyter:
            self._live = Live(console=self.console, auto_refresh=False)
            streams = sys.stdout, sys.stderr
            self._live.start()
            _redirect_logging(streams, (sys.stdout, sys.stderr))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            streams = sys.stdout, sys.stderr
            self._live.stop()
            _redirect_logging(streams, (sys.stdout, sys.stderr))

    def start_at(self, step: int, tokens: int) -> None:
        """The run begins or continues after `step`; rates are judged from there."""
        self._recent.append((self.clock(), step, tokens))
        self._draw(step, [])

    def show(self, step: int, metrics: dict[str, float]) -> None:
        """Show the numbers of a logged step."""
        time = self.clock()
        items = [*self._speed(time, step, metrics), *summarise(metrics)]
        if self._live:
            self._draw(step, items)
        elif time - self._last_line >= SECONDS_BETWEEN_LINES or step == self.total_steps:
            self._last_line = time
            line = "  ".join([f"step {step}/{self.total_steps}", *items])
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _draw(self, step: int, items: list[str]) -> None:
        if self._live:
            parts = [bar_of(step / self.total_steps), f"{step}/{self.total_steps}", *items]
            text = Text(fitting(parts, self.console.width), no_wrap=True, overflow="crop")
            self._live.update(text, refresh=True)

    def _speed(self, time: float, step: int, metrics: dict[str, float]) -> list[str]:
        """Rate and time left, from the steps of the last seconds."""
        recent = self._recent
        recent.append((time, step, metrics["tokens"]))
        while len(recent) > 2 and time - recent[1][0] >= SECONDS_OF_A_RATE:
            recent.popleft()
        began, first_step, first_tokens = recent[0]
        if step == first_step or time <= began:
            return [f"{metrics['tokens_per_second']:,.0f} tokens/s"]
        seconds_left = (time - began) / (step - first_step) * (self.total_steps - step)
        rate = (metrics["tokens"] - first_tokens) / (time - began)
        return [f"{rate:,.0f} tokens/s", f"eta {duration(seconds_left)}"]


class JointProgress(ProgressDisplay):
    """One display for SAEs that are trained side by side; numbers are of the first at each step.

    Args:
        total_steps: of the longest training.
        console: where to print.
        n_saes: how many there are.
    """

    def __init__(self, total_steps: int, console: Console, n_saes: int) -> None:
        super().__init__(total_steps, console)
        self._note, self._shown, self._n_open = f"{n_saes} SAEs", -1, 0

    def __enter__(self) -> JointProgress:
        self._n_open += 1
        if self._n_open == 1:
            super().__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._n_open -= 1
        if not self._n_open:
            super().__exit__(kind, error, trace)

    def start_at(self, step: int, tokens: int) -> None:
        """Rates are judged from where the SAE begins that is least far."""
        if not self._recent or step < self._recent[0][1]:
            self._recent.clear()
            super().start_at(step, tokens)

    def show(self, step: int, metrics: dict[str, float]) -> None:
        """Show the numbers of a step that has not been shown."""
        if step > self._shown:
            self._shown = step
            super().show(step, metrics)

    def _speed(self, time: float, step: int, metrics: dict[str, float]) -> list[str]:
        return [self._note, *super()._speed(time, step, metrics)]


class NoProgress(ProgressDisplay):
    """Shows nothing."""

    def __init__(self) -> None:
        super().__init__(1, Console(quiet=True))

    def show(self, step: int, metrics: dict[str, float]) -> None:
        """Nothing is shown."""


def _redirect_logging(old: tuple[TextIO, TextIO], new: tuple[TextIO, TextIO]) -> None:
    """Lines of the log go above the bar: a handler holds the stream there was when it was made."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream in old:
            handler.setStream(new[old.index(handler.stream)])


def summarise(metrics: dict[str, float]) -> list[str]:
    """Return the few numbers that tell whether a run goes well."""
    return [
        f"loss {metrics['loss']:.4g}",
        f"EV {metrics['explained_variance']:.3f}",
        f"L0 {metrics['l0']:.1f}",
        f"dead {metrics['dead_share']:.1%}",
    ]


def duration(seconds: float) -> str:
    """Seconds, or from two minutes on minutes, or hours and minutes."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def bar_of(share: float) -> str:
    """In ASCII and without colours, so that it shows on every terminal."""
    done = round(share * BAR_WIDTH)
    return f"[{'#' * done}{'.' * (BAR_WIDTH - done)}]"


def fitting(items: Iterable[str], width: int) -> str:
    """As many of the first items as fit into a line."""
    line = ""
    for item in items:
        longer = f"{line}  {item}" if line else item
        if len(longer) > width:
            break
        line = longer
    return line
