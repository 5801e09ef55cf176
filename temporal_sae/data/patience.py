"""Reading over a network: what fails is tried again with growing pauses, and nothing for ever.

What is read works in a thread of its own, which is left to itself where it does not answer in time:
the libraries that transfer a file have limits for each of their tries, but none for all of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from temporal_sae.errors import one_line

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds
AT_ONCE = 1000  # items that are passed over in one go
TRANSFER = {"aiohttp", "httpcore", "httpx", "requests", "urllib3"}  # what libraries raise
TRY_AGAIN = {408, 425, 429}  # answers below 500 that may be another one later
Answer = tuple[Any, BaseException | None]


class Worker:
    """A thread that does one thing after the other, each for a limited time."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._answers: SimpleQueue[Answer] = SimpleQueue()
        Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                self._answers.put((task(), None))
            except BaseException as error:  # noqa: BLE001 - raised where it was asked for
                self._answers.put((None, error))

    def call(self, task: Callable[[], Any], seconds: float, limit: float) -> Any:
        """Return what `task` returns.

        Raises:
            TimeoutError: it has not returned in that many seconds, of a limit that is told; the
                worker is of no use any more.
        """
        self._tasks.put(task)
        try:
            answer, error = self._answers.get(timeout=max(seconds, 0))
        except Empty as empty:
            raise TimeoutError(f"nothing has come for {limit:g} s") from empty
        if error is not None:
            raise error
        return answer

    def stop(self) -> None:
        """Let the thread end after what it is doing."""
        self._tasks.put(None)


def within(seconds: float, task: Callable[[], Any]) -> Any:
    """Return what `task` returns, or raise TimeoutError after that many seconds."""
    worker = Worker()
    try:
        return worker.call(task, seconds, seconds)
    finally:
        worker.stop()


def patiently(rows: Iterable[Any], start: int, patience: float, name: str) -> Iterator[Any]:
    """Yield the items behind the first `start`.

    Args:
        rows: gives the same items each time.
        start: how many to pass over.
        patience: seconds in which the next item has to come, all tries together. Passing over what
            has been there before does not count, as long as it goes on.
        name: of what is read, for the log.

    Raises:
        TimeoutError: nothing has come for so long.
        Exception: whatever the rows raise, where it is no failure of the connection or time has run
            out.
    """
    number, reader, worker = start, None, Worker()
    deadline, pause = time.monotonic() + patience, FIRST_PAUSE
    try:
        while True:
            try:
                if reader is None:
                    began = time.monotonic()
                    reader = worker.call(partial(iter, rows), patience, patience)
                    for passed in range(0, number, AT_ONCE):
                        first_ones = partial(drop, reader, min(AT_ONCE, number - passed))
                        worker.call(first_ones, patience, patience)
                    deadline += time.monotonic() - began
                left = deadline - time.monotonic()
                item = worker.call(partial(next, reader, None), left, patience)
            except Exception as error:
                if not is_passing(error) or deadline - time.monotonic() <= pause:
                    raise
                told = "%s: item %d does not come (%s); trying again in %g s"
                log.warning(told, name, number + 1, one_line(error), pause)
                time.sleep(pause)
                reader, pause = None, min(2 * pause, LONGEST_PAUSE)
                continue
            if item is None:
                return
            yield item
            number += 1
            deadline, pause = time.monotonic() + patience, FIRST_PAUSE
    finally:
        worker.stop()


def drop(reader: Iterator[Any], n: int) -> None:
    """Pass over some items."""
    next(islice(reader, n, n), None)


def is_passing(error: BaseException | None) -> bool:
    """Return whether trying again may help: the connection has failed, and not what came by it."""
    while error is not None:
        status = getattr(getattr(error, "response", error), "status_code", None)
        status = getattr(error, "status", None) if status is None else status
        if isinstance(status, int) and status >= 400:
            return status >= 500 or status in TRY_AGAIN
        modules = {base.__module__.partition(".")[0] for base in type(error).__mro__}
        if isinstance(error, (ConnectionError, TimeoutError)) or modules & TRANSFER:
            return True
        error = error.__cause__ or error.__context__
    return False
