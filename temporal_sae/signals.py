"""Stop signals: Ctrl-C, SIGTERM, and SIGHUP unless it is ignored, as it is under nohup.

A signal raises `Terminated` wherever the program happens to be. Libraries swallow that, by bare
excepts, in callbacks from native code, or where half of an import is enough for them. So it is
remembered as well, and `obey` raises it again at the next place where stopping is safe. During an
import it is only remembered: what is raised there leaves modules that are half made.

Only the standard library is imported here, since this comes before everything that is slow.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType

STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# A shell passes SIGHUP on to jobs that have got it from the terminal, and so do some supervisors
# with SIGTERM: that is one request and not a second one that wants an end at once.
SECONDS_OF_AN_ECHO = 1.0


class Terminated(KeyboardInterrupt):
    """A stop signal ends the program as Ctrl-C does, with the files that it writes left whole.

    Args:
        signal_number: of the signal.
    """

    def __init__(self, signal_number: int = signal.SIGTERM) -> None:
        super().__init__()
        self.signal_number = int(signal_number)


class _Remembered:
    """The signal that has come and not been obeyed, and whether the next one may raise."""

    number: int | None = None
    at = 0.0
    is_held = False


def is_ignored(number: int) -> bool:
    """Return whether the program was started with that signal ignored, and so has to go on."""
    return signal.getsignal(number) == signal.SIG_IGN


def hold() -> None:
    """From now on only remember a stop signal; a second one ends the process at once."""
    _Remembered.is_held = True
    _take()


def take() -> None:
    """From now on let a stop signal raise; one that is remembered raises here.

    Outside the main thread, where Python cannot set handlers, it does nothing.

    Raises:
        Terminated: a signal has come before.
    """
    _Remembered.is_held = False
    _take()
    obey()


@contextmanager
def held() -> Iterator[None]:
    """`hold` while the context is open, for an import; then as before.

    Raises:
        Terminated: at its end, if a signal has come.
    """
    before, _Remembered.is_held = _Remembered.is_held, True
    try:
        yield
    finally:
        _Remembered.is_held = before
    if not before:
        obey()


def let_go() -> None:
    """From now on let signals do what they do to any program; one that has come does it now."""
    _Remembered.is_held = False
    for number in STOP:
        if signal.getsignal(number) == _on_signal:
            is_ctrl_c = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if is_ctrl_c else signal.SIG_DFL)
    if _Remembered.number is not None:
        signal.raise_signal(_Remembered.number)


def obey() -> None:
    """Raise here, where stopping is safe, what a remembered signal stands for.

    Raises:
        Terminated: a signal has come, and what it raised has been swallowed.
    """
    if _Remembered.number is not None and not _Remembered.is_held:
        raise Terminated(_Remembered.number)


def as_stop(error: BaseException) -> BaseException:
    """Return what has ended the program: the stop signal, where there was one, or `error`."""
    if isinstance(error, KeyboardInterrupt) or _Remembered.number is None:
        return error
    return Terminated(_Remembered.number)


@contextmanager
def ending() -> Iterator[None]:
    """Around a whole program: a stop signal ends it with the shells' exit code and no traceback.

    Raises:
        SystemExit: a signal has come.
    """
    try:
        take()
        yield
    except BaseException as error:
        stopped = as_stop(error)
        _Remembered.number = None
        if not isinstance(stopped, KeyboardInterrupt):
            raise
        sys.exit(exit_code(stopped))


def exit_code(stopped: BaseException) -> int:
    """Return the exit status that shells give a program that a signal has ended."""
    return 128 + int(getattr(stopped, "signal_number", signal.SIGINT))


def _take() -> None:
    if current_thread() is not main_thread():
        return
    for number in STOP:
        if not is_ignored(number):
            signal.signal(number, _on_signal)


def _on_signal(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    is_second = _Remembered.number is not None
    if is_second and number != signal.SIGINT and now - _Remembered.at < SECONDS_OF_AN_ECHO:
        return
    if is_second and _Remembered.is_held:
        os._exit(128 + number)
    _Remembered.number, _Remembered.at = number, now
    if not _Remembered.is_held:
        raise Terminated(number)


def stop_when_alone() -> None:
    """Wait until standard input ends with whoever holds it; then stop as if asked to."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
