"""A process that does a sweep's jobs: `python -m temporal_sae.sweep work FOLDER`.

It finds all that it has to know in the folder, and what becomes of a job is told there alone. Which
modules of a person's own may be imported is said by its command line, since the folder may be
anybody's.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from omegaconf import OmegaConf
from rich.console import Console

from temporal_sae import distributed, signals
from temporal_sae.commands import Parser, exit_on_mistakes, short, tell
from temporal_sae.errors import InvalidOption, RunError, check_int, one_line, reason_of
from temporal_sae.experiment import Ending, Request, run_experiment, run_together, stream_of
from temporal_sae.experiment.build import uses_cuda
from temporal_sae.experiment.components import check_stored, load_plugins
from temporal_sae.sweep.claims import Claim, Claims
from temporal_sae.sweep.logs import JobLog, JobLogs
from temporal_sae.sweep.plan import CONFIGS, SweepFolder
from temporal_sae.sweep.states import AGAIN, Outcome, worker_name
from temporal_sae.sweep.status import read_record
from temporal_sae.training import Stopped

log = logging.getLogger(__name__)

TRACEBACK = "TEMPORAL_SAE_TRACEBACK"


class Task(NamedTuple):
    """A job that is claimed, as a run is asked for, with its log."""

    number: int
    request: Request
    log: JobLog


class Worker:
    """Does the open jobs of a sweep until none is left.

    Args:
        folder: of the sweep.
        n_workers: of the sweep, this one included.
        plugins: modules whose classes the configs of jobs may name.
        place: where it runs, for the logs.
        console: shows progress.
    """

    def __init__(
        self,
        folder: SweepFolder,
        n_workers: int = 1,
        plugins: Sequence[str] = (),
        place: str | None = None,
        console: Console | None = None,
    ) -> None:
        load_plugins(plugins)
        source = folder.work / CONFIGS
        self.folder, self.console = folder, console
        self.place = place or socket.gethostname()
        self.claims = Claims(
            folder,
            worker_name(os.getpid()),
            n_workers,
            stream_of,
            lambda config: check_stored(config, plugins, source),
        )
        self.logs = JobLogs()

    def work(self) -> None:
        """Do jobs; several processes do each together, and the first of them claims it.

        Raises:
            RunError: the folder is gone, or holds what cannot be read.
            Stopped, KeyboardInterrupt: by a stop signal; the jobs can be continued.
            SystemExit: the cluster wants its processors back; likewise.
        """
        in_order = False
        with self.logs.installed():
            try:
                if distributed.is_launched():
                    self._work_with_others()
                else:
                    while claims := self.claims.take():
                        self._run(claims)
            except BaseException as error:
                in_order = is_stop(error)
                raise
            finally:
                self.claims.give_back(untried=in_order)

    def _run(self, claims: Sequence[Claim]) -> None:
        """Run jobs on one stream, and note what has come of them."""
        tasks = [self._task(claim) for claim in claims]
        self.logs.several = len(tasks) > 1
        if self.logs.several:
            first, last = tasks[0].number, tasks[-1].number
            log.info("%d jobs side by side, from %d to %d", len(tasks), first, last)
        for task in tasks:
            with self.logs.about(task.log):
                say_begin(task.request)
        with telling_of_stops([task.log for task in tasks]):
            run_together(
                [task.request for task in tasks],
                lambda n: self.logs.about(tasks[n].log),
                self.console,
                lambda n, ending: self._settle(tasks[n], ending),
            )

    def _work_with_others(self) -> None:
        """Run one job after the other in all processes of this worker; the first tells of it."""
        first = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0
        configs = self.folder.configs().values()
        on_cuda = any(uses_cuda(config.get("device", "auto")) for config in configs)
        with distributed.process_group(on_cuda):
            while claims := distributed.on_rank_zero(lambda: self.claims.take(most=1)):
                task = self._task(claims[0])
                with self.logs.about(task.log if first else None):
                    say_begin(task.request)
                    with telling_of_stops([task.log] if first else []):
                        ending = run_on_all_ranks(task.request, self.console)
                if first:
                    self._settle(task, ending)

    def _task(self, claim: Claim) -> Task:
        cfg = OmegaConf.create(claim.config)
        OmegaConf.set_struct(cfg, True)
        folder = Path(short(self.folder.path / claim.job.folder))
        request = Request(cfg, folder, claim.job.overrides)
        return Task(claim.job.number, request, JobLog(folder, self.place))

    def _settle(self, task: Task, ending: Ending) -> None:
        error, outcome, folder = ending.error, Outcome(), task.request.folder
        if error is not None:
            told = tell(error, folder, "repeat the command")
            debug = task.request.cfg.get("debug") is True or os.environ.get(TRACEBACK)
            with self.logs.about(task.log):
                if told is None or debug:
                    log.error("%s has failed", folder, exc_info=error)
                else:
                    log.error("%s: error: %s", folder, told)
            refused = isinstance(error, (InvalidOption, RunError))
            outcome = Outcome(one_line(told) or reason_of(error), refused)
        if folder.is_dir():
            task.log.flush()
        self.claims.settle(task.number, outcome)


@contextmanager
def telling_of_stops(logs: Sequence[JobLog]) -> Iterator[None]:
    """Log it where jobs are stopped, for those of them that had not ended by then."""
    try:
        yield
    except (Stopped, KeyboardInterrupt) as stopped:
        log.warning("%s", str(stopped) or "interrupted")
        for job_log in logs:
            with suppress(RunError):
                record = read_record(job_log.folder)
                if record.get("status") == "stopped":
                    job_log.write(one_line(record.get("reason")) or "interrupted")
                if record:
                    job_log.flush()
        raise


def run_on_all_ranks(request: Request, console: Console | None) -> Ending:
    """Run a job in this process and the others of its worker.

    An error that not all of them have raised ends them all: some may be waiting for the others.
    """
    try:
        overrides = list(request.overrides)
        return Ending(run_experiment(request.cfg, request.folder, overrides, console), None)
    except Stopped:
        raise
    except Exception as error:
        if not distributed.is_collective(error):
            raise
        return Ending(None, error)


def say_begin(request: Request) -> None:
    """Log which job begins."""
    log.info("%s: %s", request.folder, " ".join(request.overrides) or "defaults")


def is_stop(error: BaseException) -> bool:
    """Return whether a worker has ended in good order before its jobs were done."""
    again = isinstance(error, SystemExit) and error.code == AGAIN
    return again or isinstance(error, (Stopped, KeyboardInterrupt))


def main(arguments: Sequence[str]) -> None:
    """Run a worker as a process of its own; exits with 75 when it is to be queued again."""
    parser = Parser(prog="python -m temporal_sae.sweep work", description=__doc__)
    parser.add_argument("folder", type=Path, help="of the sweep")
    parser.add_argument("--workers", type=int, default=1, help="how many there are")
    parser.add_argument("--plugins", default="", help="modules, joined by commas")
    parser.add_argument("--place", help="where it runs, for the logs")
    parser.add_argument("--queued", action="store_true", help="let SIGUSR2 queue it again")
    parser.add_argument("--lifeline", action="store_true", help="stop when stdin ends")
    options = parser.parse_args(arguments)
    if options.queued:
        signal.signal(signal.SIGUSR2, leave)
    if options.lifeline:
        threading.Thread(target=signals.stop_when_alone, daemon=True).start()
    log_to_stdout()
    plugins = [name for name in options.plugins.split(",") if name]
    folder = SweepFolder(options.folder)
    with exit_on_mistakes(traceback=bool(os.environ.get(TRACEBACK))):
        if not folder.exists():
            raise RunError(f"{folder.path}: holds no sweep")
        n_workers = check_int("--workers", options.workers, 1)
        try:
            Worker(folder, n_workers, plugins, options.place).work()
        except Stopped as stopped:
            sys.exit(signals.exit_code(stopped))


def leave(number: int, frame: FrameType | None) -> None:
    """End the process so that it is queued again; a training saves a checkpoint before."""
    sys.exit(AGAIN)


def log_to_stdout() -> None:
    """Log as a run does that is started alone."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logging.getLogger("temporal_sae").setLevel(logging.INFO)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
