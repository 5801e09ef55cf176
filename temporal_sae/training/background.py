"""Work beside the training loop, in a thread."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Lock, Thread

from temporal_sae.errors import reason_of

log = logging.getLogger(__name__)
# What is worked on is held in memory: of many SAEs that are trained together one at a time.
_ONE_IN_A_PROCESS = Lock()


class Background:
    """At most one piece of work that goes on while its owner does something else."""

    def __init__(self) -> None:
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    def begin(self, prepare: Callable[[], Callable[[], object]]) -> bool:
        """Call `prepare` here, and what it returns in a thread, after what is under way.

        Returns:
            False, with nothing done, where somebody else's work goes on in this process.

        Raises:
            Exception: what is under way has failed by it, or `prepare` has.
        """
        self.wait()
        if not _ONE_IN_A_PROCESS.acquire(blocking=False):
            return False
        try:
            self._thread = Thread(target=self._do, args=(prepare(),), name="background")
            self._thread.start()
        except BaseException:
            self._thread = None
            _ONE_IN_A_PROCESS.release()
            raise
        return True

    def _do(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            self._error = error
        finally:
            _ONE_IN_A_PROCESS.release()

    def wait(self) -> None:
        """Wait until what is under way is done.

        Raises:
            Exception: it has failed by it; once.
        """
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def settle(self) -> None:
        """Wait as `wait` does where another error is on its way: its own is only logged."""
        try:
            self.wait()
        except Exception as error:  # noqa: BLE001 - the other one is what ended it all
            log.warning("a checkpoint could not be written (%s)", reason_of(error))
