"""One process at a time, also where the file system knows no locks."""

from __future__ import annotations

import fcntl
import logging
import os
from errno import ENOLCK, ENOSYS, ENOTSUP, EOPNOTSUPP
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

log = logging.getLogger(__name__)

NO_LOCKS = {ENOLCK, ENOSYS, ENOTSUP, EOPNOTSUPP}


class ProcessLock:
    """Held by one process at a time, and free once that process has ended, however it has.

    On a file system without locks, a marker beside the file names the process and its machine. One
    that has ended on this machine is taken for what it is. Of one on another machine nothing can be
    known: its marker has to be removed by hand should it have been killed.

    Args:
        path: of the file, in a folder that exists.
        timeout: seconds to wait for another process; negative: as long as it takes.
    """

    def __init__(self, path: Path, timeout: float = -1) -> None:
        self.path, self.marker = path, marker_of(path)
        self._native = FileLock(path, timeout=timeout, fallback_to_soft=False)
        self._soft = SoftFileLock(self.marker, timeout=timeout)

    def acquire(self, timeout: float | None = None) -> None:
        """Wait for the lock.

        Args:
            timeout: instead of that of the constructor.

        Raises:
            filelock.Timeout: another process holds it.
            OSError: the file cannot be made.
        """
        try:
            self._native.acquire(timeout)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            self._soft.acquire(timeout)
            log.warning("%s: no locks on this file system; %s is one", self.path, self.marker.name)

    def release(self) -> None:
        """Let others have it, and remove the file."""
        if self._native.is_locked or self._soft.is_locked:
            # Before it is let go: whoever waits for this very file then sees that it is gone.
            self.path.unlink(missing_ok=True)
        self._native.release()
        self._soft.release()

    def holder(self) -> str:
        """Describe another process that holds the lock, for a message."""
        return f"; if it has ended, remove {self.marker}" if self.marker.exists() else ""


def marker_of(path: Path) -> Path:
    """Return the file that stands for a lock where there are none."""
    return path.with_name(f"{path.name}.pid")


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock; it is tried for, shared, and released at once."""
    if marker_of(path).exists():
        return _is_alive(marker_of(path))
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # a file system without locks, and no marker
    finally:
        os.close(descriptor)
    return False


def _is_alive(marker: Path) -> bool:
    """Return whether the process of a marker may run; the marker of a dead one is removed."""
    lock = SoftFileLock(marker, timeout=0)
    try:
        lock.acquire()
    except OSError:  # a timeout among others
        return True
    lock.release()
    return False


__all__ = ["ProcessLock", "Timeout", "is_held"]
