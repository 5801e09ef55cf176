"""The process that has imported what every run needs, and forks for each job.

A run imports for some seconds before it does anything. Here that is done once, in a process that
does nothing else, and forks of it begin at once. It ends when the launcher has, and its jobs with
it; how a job has ended it sees for itself, whatever the job can still say.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection, wait

import cloudpickle
from hydra.core.singleton import Singleton
from hydra.core.utils import setup_globals

from temporal_sae.sweep import child
from temporal_sae.sweep.messages import Ended, Message, Outcome, Ready, Send, Setup, Start, Started

LONGEST_ANSWER = 65536
SECONDS_TO_STOP = 300.0  # for a checkpoint of jobs whose launcher is gone


@dataclass(frozen=True)
class Forked:
    """In the fork: what to run, and where to say how it has ended."""

    start: Start
    answer: int


class Server:
    """Starts jobs, sends them signals and tells how they end.

    Args:
        channel: to the launcher.
    """

    def __init__(self, channel: Connection) -> None:
        self.channel = channel
        self._children: dict[int, Forked] = {}
        self._deadline: float | None = None
        self._wake, self._woken = os.pipe()

    def serve(self) -> Forked | None:
        """Work until the launcher and all jobs have ended; returns a second time in every fork."""
        os.set_blocking(self._wake, False)
        os.set_blocking(self._woken, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        while self._children or self._deadline is None:
            heard = [] if self._deadline is not None else [self.channel]
            ready = wait([*heard, self._wake], self._patience())
            self._reap()
            if self.channel in ready and (forked := self._obey()):
                return forked
            if self._deadline is not None and time.monotonic() > self._deadline:
                for pid in self._children:
                    end_group(pid)
        return None

    def _patience(self) -> float | None:
        if self._deadline is None:
            return None
        return max(0.1, self._deadline - time.monotonic())

    def _obey(self) -> Forked | None:
        """Do what the launcher says; if it is gone the jobs know, too, and get time to stop."""
        try:
            message: Message = self.channel.recv()
        except (EOFError, OSError):
            self._deadline = time.monotonic() + SECONDS_TO_STOP
            return None
        if isinstance(message, Start):
            return self._fork(message)
        if isinstance(message, Send):
            self._signal(message)
        return None

    def _fork(self, start: Start) -> Forked | None:
        answer, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._forget(answer)
            return Forked(start, told)
        os.close(told)
        self._children[pid] = Forked(start, answer)
        self._tell(Started(start.job, start.rank, pid))
        return None

    def _forget(self, answer: int) -> None:
        """In the fork: let go of everything that is the server's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        others = [each.answer for each in self._children.values()]
        for descriptor in (answer, self._wake, self._woken, *others):
            os.close(descriptor)
        self.channel.close()

    def _signal(self, message: Send) -> None:
        for pid, running in self._children.items():
            if (running.start.job, running.start.rank) == (message.job, message.rank):
                if message.number == signal.SIGKILL:
                    end_group(pid)
                os.kill(pid, message.number)  # it is not reaped yet, so the number is still its own

    def _reap(self) -> None:
        """Take leave of the jobs that have ended, and of what they have started."""
        with suppress(BlockingIOError):
            os.read(self._wake, LONGEST_ANSWER)
        for pid, ended in list(self._children.items()):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            end_group(pid)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            del self._children[pid]
            self._tell(Ended(ended.start.job, ended.start.rank, code, heard_from(ended.answer)))

    def _tell(self, message: Message) -> None:
        with suppress(OSError):  # the launcher is gone
            self.channel.send(message)


def end_group(pid: int) -> None:
    """Kill a job and all that it has started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def heard_from(answer: int) -> Outcome | None:
    """Return the report of a job that has ended, if it left one."""
    os.set_blocking(answer, False)
    try:
        return Outcome(**json.loads(os.read(answer, LONGEST_ANSWER)))
    except (BlockingIOError, ValueError):
        return None
    finally:
        os.close(answer)


def main(channel: int, lifeline: int) -> None:
    """Everything that happens in this process, and in those of the jobs.

    Args:
        channel: descriptor of the socket to the launcher.
        lifeline: descriptor of a pipe that nobody writes to, and that ends with the launcher.
    """
    # Whoever stops the launcher may mean all processes; the jobs let them in again.
    signal.pthread_sigmask(signal.SIG_BLOCK, child.STOP)
    for descriptor in (channel, lifeline):
        os.set_inheritable(descriptor, False)
    launcher = Connection(channel)
    setup: Setup = launcher.recv()
    for module in setup.preload:
        with suppress(ImportError):  # a job that needs it will say so
            import_module(module)
    task: child.Task = cloudpickle.loads(setup.task)
    Singleton.set_state(task.singletons)
    setup_globals()
    launcher.send(Ready())
    if (forked := Server(launcher).serve()) is not None:
        sys.exit(child.run(task, forked.start, forked.answer, lifeline))
