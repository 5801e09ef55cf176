"""`hydra/launcher=local`: the jobs of a sweep side by side on the GPUs or cores of this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, ListConfig

from temporal_sae.errors import InvalidOption, JobFailed, JobRefused, check_int
from temporal_sae.sweep.host import Host
from temporal_sae.sweep.messages import Outcome, Setup
from temporal_sae.sweep.plan import SweepFolder
from temporal_sae.sweep.pool import Pool
from temporal_sae.sweep.slots import Slots, find_slots, thread_environment
from temporal_sae.sweep.status import read_sweep
from temporal_sae.sweep.table import LiveTable

if TYPE_CHECKING:
    from rich.console import Console

GROUP = "hydra.launcher"
PRELOADED = (  # whatever a run takes long to import
    "temporal_sae.experiment",
    "temporal_sae.kernels.threads",
    "torch._dynamo",
    "torch._refs.linalg",
    "transformers.convert_slow_tokenizer",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.gemma2.modeling_gemma2",
)


class LocalLauncher(Launcher):
    """Runs each job in a process of its own, as many at a time as there are slots.

    What the options mean is said in `conf/hydra/launcher/local.yaml`.

    Args:
        devices: auto, cpu, or numbers of GPUs.
        workers: jobs at a time on the CPU; None: as many as fit.
        processes_per_job: above 1: data parallel.
        threads: of each process; None: its share of the cores.
    """

    def __init__(
        self,
        devices: str | Sequence[int] = "auto",
        workers: int | None = None,
        processes_per_job: int = 1,
        threads: int | None = None,
    ) -> None:
        super().__init__()
        self.devices = list(devices) if isinstance(devices, (ListConfig, tuple)) else devices
        self.workers, self.processes_per_job, self.threads = workers, processes_per_job, threads

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra gives."""
        self.hydra_context, self.task_function = hydra_context, task_function
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> list[JobReturn]:
        """Run the jobs.

        Returns:
            How each has ended, in their order: COMPLETED with its objective, or FAILED with an
            exception that tells the reason in one line.

        Raises:
            InvalidOption, RunError: nothing has been run, by a mistake that a person can correct.
            KeyboardInterrupt: by Ctrl-C or SIGTERM; the jobs have stopped and can be continued.
        """
        from rich.console import Console  # slow to import

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        slots, environment = self._slots(len(job_overrides))
        folder = Path(str(self.config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        console = Console()
        setup = Setup(PRELOADED, self._pickled_task())
        pool = Pool(
            job_overrides,
            slots,
            self.processes_per_job,
            initial_job_idx,
            lambda: Host(setup, environment),
            lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
        )
        with live_table(folder, console) as look:
            outcomes = pool.run(look)
        return [
            returned(list(overrides), outcome)
            for overrides, outcome in zip(job_overrides, outcomes, strict=True)
        ]

    def _slots(self, n_jobs: int) -> tuple[Slots, dict[str, str]]:
        """Return the places where jobs can run, and the threads of each process."""
        try:
            self.processes_per_job = check_int("processes_per_job", self.processes_per_job, 1)
            slots = find_slots(self.devices, self.workers, n_jobs, self.processes_per_job)
            return Slots(slots), thread_environment(len(slots), self.threads)
        except InvalidOption as error:
            raise error.within(GROUP) from None

    def _pickled_task(self) -> bytes:
        import cloudpickle  # slow to import, and so is what the jobs need

        from temporal_sae.sweep.child import Task

        task = Task(self.hydra_context, self.task_function, self.config, Singleton.get_state())
        return cloudpickle.dumps(task)


@contextmanager
def live_table(folder: Path, console: Console) -> Iterator[Callable[[], None]]:
    """Yields what shows the state of all jobs; nothing if the folder has no note of them."""
    if not SweepFolder(folder).exists():
        yield lambda: None
        return
    with LiveTable(lambda: read_sweep(folder), console) as table:
        yield table.update


def returned(overrides: list[str], outcome: Outcome) -> JobReturn:
    """Return the job as Hydra records it."""
    job = JobReturn(overrides=overrides)
    if outcome.reason is None:
        job.status, job.return_value = JobStatus.COMPLETED, outcome.objective
    else:
        kind = JobRefused if outcome.refused else JobFailed
        job.status, job.return_value = JobStatus.FAILED, kind(outcome.reason)
    return job
