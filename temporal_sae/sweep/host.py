"""The launcher's side of the process that starts jobs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType

from temporal_sae.sweep.messages import Ended, Message, Ready, Send, Setup, Start, Started

SECONDS_TO_LEAVE = 10.0
BOOT = """
import sys
sys.path[:] = {path!r}
from temporal_sae.sweep.server import main
main({channel}, {lifeline})
"""


class HostLost(Exception):
    """The process that starts jobs has ended by itself, or rather by someone else's hand."""


class Host:
    """Starts processes of jobs in a process of its own that has imported everything already.

    Args:
        setup: what all jobs share.
        environment: variables of all jobs, in addition to those of this process.
    """

    def __init__(self, setup: Setup, environment: Mapping[str, str]) -> None:
        self.is_ready = False
        self._pids: dict[tuple[int, int], int] = {}
        ours, theirs = socket.socketpair()
        listened_to, self._lifeline = os.pipe()
        code = BOOT.format(path=sys.path, channel=theirs.fileno(), lifeline=listened_to)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), listened_to),
            start_new_session=True,  # Ctrl-C is the launcher's
        )
        theirs.close()
        os.close(listened_to)
        self._channel = Connection(ours.detach())
        self._send(setup)

    def __enter__(self) -> Host:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the process end; jobs that still run stop as if by SIGTERM."""
        os.close(self._lifeline)
        self._channel.close()
        if not self._pids:
            self.process.kill()  # nothing is lost: it has no jobs
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(SECONDS_TO_LEAVE)

    def start(self, message: Start) -> None:
        """Start a process of a job."""
        self._send(message)

    def signal(self, job: int, rank: int, number: int) -> None:
        """Send a signal to a process of a job, SIGKILL to all that it has started, too."""
        self._send(Send(job, rank, number))

    def _send(self, message: Message) -> None:
        with suppress(OSError):  # it is gone: `messages` will say so
            self._channel.send(message)

    def messages(self, seconds: float) -> Iterator[Started | Ended]:
        """Yield the messages there are, waiting for the first for at most `seconds`.

        Raises:
            HostLost: the process is gone.
        """
        try:
            while self._channel.poll(seconds):
                message = self._channel.recv()
                if isinstance(message, Ready):
                    self.is_ready = True
                    return
                if isinstance(message, Started):
                    self._pids[message.job, message.rank] = message.pid
                elif isinstance(message, Ended):
                    del self._pids[message.job, message.rank]
                yield message
                seconds = 0.0
        except (EOFError, OSError):
            raise HostLost(ended_by(self.process.wait())) from None

    def end_lost(self) -> None:
        """Kill the jobs of a process that is gone; nobody would hear how they end."""
        for pid in self._pids.values():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        self._pids.clear()


def ended_by(code: int) -> str:
    """`killed by SIGKILL`, or `ended with exit code 1`."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def free_port() -> int:
    """Return a port of this machine that nobody listens to."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
