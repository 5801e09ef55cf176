"""`hydra/launcher=slurm`: every job of a sweep as a job of a SLURM cluster.

Submission, preemption and requeueing are submitit's, through hydra-submitit-launcher. What is added
here: jobs that fail or get lost are reported while the others go on, a launcher that is killed or
interrupted finds its jobs again, and nothing waits for SLURM's accounting.
"""

from __future__ import annotations

import inspect
import io
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as Submitit
from omegaconf import OmegaConf

from temporal_sae.errors import RunError
from temporal_sae.files import remove_if_empty
from temporal_sae.sweep.plan import SweepFolder
from temporal_sae.sweep.session import say
from temporal_sae.sweep.slurm_jobs import (
    EXIT_CODE,
    OUTCOME,
    SECONDS_BETWEEN_LOOKS,
    Outcome,
    SlurmJob,
    outlive_requeueing,
    still_live,
)
from temporal_sae.sweep.slurm_watch import arrays, tell_how_to_go_on, wait_for
from temporal_sae.sweep.status import has_finished

SUBDIR = "hydra.sweep.subdir="
SECONDS_TO_BE_NOTED = 60.0
SECONDS_TO_SUBMIT = 600.0
NO_CONTROLLER = "Unable to contact slurm controller"
# srun takes no word from sbatch on processors since SLURM 22.05, and threads take all of a node's.
THREADS = (
    "export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}",
    "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}",
)


class SlurmLauncher(Submitit):
    """Submits the jobs of a sweep as one array and waits for them.

    Args:
        **params: the keys of `conf/hydra/launcher/slurm.yaml`.
    """

    def __call__(
        self,
        sweep_overrides: list[str],
        job_dir_key: str,
        job_num: int,
        job_id: str,
        singleton_state: dict[type, Singleton],
    ) -> None:
        """Run one job, inside SLURM; of several processes the first tells how it ended."""
        import submitit

        environment = submitit.JobEnvironment()
        own_folder = environment.paths.folder
        speaks = environment.global_rank == 0
        known = SlurmJob(environment.job_id, own_folder).outcome()
        if known and known.reason is None:
            return  # a controller that was killed has forgotten that the job was done
        if not self._is_noted(environment.job_id):
            sys.exit("the launcher has ended while it submitted this job: nobody waits for it")
        if speaks:
            (own_folder / OUTCOME).unlink(missing_ok=True)
        outlive_requeueing()
        try:
            job = super().__call__(sweep_overrides, job_dir_key, job_num, job_id, singleton_state)
            outcome = outcome_of(job)
        except Exception as error:
            if speaks:
                Outcome.of_error(error).write(own_folder)
            raise
        if speaks:
            outcome.write(own_folder)
        if outcome.reason is not None:
            sys.exit(1)  # for SLURM, too, it has failed

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Submit the jobs that are not in the queue already, and wait for all.

        Returns:
            How each job has ended, in their order: COMPLETED with its objective, or FAILED with an
            exception that tells the reason in one line.

        Raises:
            RunError: SLURM is not there, or does not take these jobs.
            KeyboardInterrupt: by Ctrl-C or SIGTERM; the jobs stay in the queue.
        """
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            raise RunError("hydra/launcher=slurm: needs sbatch and srun, which are not in PATH")
        assert self.config is not None
        sweep = SweepFolder(str(self.config.hydra.sweep.dir))
        names = [folder_name(overrides) for overrides in job_overrides]
        jobs: dict[int, SlurmJob] = {}
        try:
            jobs |= self._known(sweep, names)
            new = [n for n in range(len(names)) if n not in jobs]
            if new:
                submitted = self._submit([job_overrides[n] for n in new], initial_job_idx)
                jobs |= dict(zip(new, submitted, strict=True))
                sweep.note_slurm({names[n]: jobs[n].number for n in new})
                say(f"submitted {', '.join(arrays(submitted))}; logs: {submitted[0].folder.parent}")
            outcomes = wait_for({name: jobs[n] for n, name in enumerate(names)}, sweep)
            if all(outcome.refused for outcome in outcomes):
                self._forget(jobs.values())
        except KeyboardInterrupt:
            tell_how_to_go_on(jobs.values(), sweep)
            raise
        return [as_return(outcome) for outcome in outcomes]

    def _is_noted(self, number: str) -> bool:
        """Return whether the launcher has noted this job, as it does once it has submitted it.

        A launcher that is killed in between leaves jobs that it cannot find again; if they ran, the
        same command would run them twice.
        """
        assert self.config is not None
        sweep = SweepFolder(str(self.config.hydra.sweep.dir))
        end_of_patience = time.monotonic() + SECONDS_TO_BE_NOTED
        while number not in {job.slurm_job for job in sweep.jobs()}:
            if time.monotonic() > end_of_patience:
                return False
            time.sleep(0.2)
        return True

    def _known(self, sweep: SweepFolder, names: Sequence[str]) -> dict[int, SlurmJob]:
        """Jobs that an earlier launcher has submitted and that are not lost, by their place."""
        noted = {job.folder: self._job(job.slurm_job) for job in sweep.jobs() if job.slurm_job}
        asked = {name: noted[name] for name in names if name in noted}
        kept = still_live(asked.values())
        # Some may have finished since the sweeper looked, unless they are to run again.
        if asked and not (self.config or {}).get("overwrite"):
            kept |= {job for name, job in asked.items() if is_done(sweep.path / name, job)}
        found = {n: asked[name] for n, name in enumerate(names) if asked.get(name) in kept}
        if found:
            say(f"{len(found)} jobs are in the queue or run already")
        return found

    def _job(self, number: str) -> SlurmJob:
        from submitit.core.utils import JobPaths

        return SlurmJob(number, JobPaths(self.params["submitit_folder"], number).folder)

    def _submit(self, overrides: Sequence[Sequence[str]], first: int) -> list[SlurmJob]:
        """Submit one array; while the controller does not answer, try again.

        Raises:
            RunError: SLURM refuses it, or does not answer for ten minutes.
        """
        from submitit.core.utils import FailedJobError

        numbers = range(first, first + len(overrides))
        arguments = [
            (list(each), "hydra.sweep.dir", number, str(number), Singleton.get_state())
            for number, each in zip(numbers, overrides, strict=True)
        ]
        end_of_patience = time.monotonic() + SECONDS_TO_SUBMIT
        while True:
            try:
                with redirect_stderr(io.StringIO()):  # submitit prints what it then raises
                    submitted = self._executor().map_array(self, *zip(*arguments, strict=True))
                return [self._job(job.job_id) for job in submitted]
            except FailedJobError as error:
                self._forget()
                if NO_CONTROLLER not in str(error) or time.monotonic() > end_of_patience:
                    why = str(error).strip().splitlines()[-1:]
                    raise RunError(f"hydra/launcher=slurm: {''.join(why)}") from error
                time.sleep(SECONDS_BETWEEN_LOOKS)

    def _executor(self) -> Any:
        """submitit's executor with our parameters."""
        import submitit

        ours = {
            **self.params,
            "setup": [*self._setup(), *(self.params.get("setup") or ())],
            "teardown": ["code=$?", 'echo $code > "$exit_code"', "exit $code"],
        }
        if int(ours["nodes"]) * int(ours["tasks_per_node"]) > 1:
            # A process that fails must not leave the others waiting for it.
            ours["srun_args"] = ["--kill-on-bad-exit=1"]
        executor = submitit.AutoExecutor(
            ours.pop("submitit_folder"),
            cluster="slurm",
            slurm_max_num_timeout=ours.pop("max_num_timeout"),
        )
        shared = OmegaConf.structured(BaseQueueConf).keys()
        executor.update_parameters(
            **{key if key in shared else f"slurm_{key}": value for key, value in ours.items()}
        )
        return executor

    def _setup(self) -> list[str]:
        """Return the first commands of a job's script."""
        folder = Path(self.params["submitit_folder"]).expanduser().absolute()
        before, _, after = str(folder / EXIT_CODE).partition("%j")
        root = Path(inspect.getfile(type(self))).resolve().parents[1]
        return [
            "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}",
            f"exit_code={shlex.quote(before)}${{job:-$SLURM_JOB_ID}}{shlex.quote(after)}",
            'rm -f "$exit_code"',
            # For Python to find this class, wherever the command was given.
            f"export PYTHONPATH={shlex.quote(str(root))}${{PYTHONPATH:+:$PYTHONPATH}}",
            *THREADS,
        ]

    def _forget(self, jobs: Iterable[SlurmJob] = ()) -> None:
        """Delete what submitit has written for these jobs, and for those never submitted."""
        from submitit.core.utils import JobPaths

        for job in jobs:
            shutil.rmtree(job.folder, ignore_errors=True)
            shutil.rmtree(self._job(job.array).folder, ignore_errors=True)
        folder = JobPaths.get_first_id_independent_folder(self.params["submitit_folder"])
        for path in [*folder.glob("*.pkl"), *folder.glob(".submission_file_*.sh")]:
            if not path.is_symlink() or not path.exists():  # once submitted, it is a link
                path.unlink(missing_ok=True)
        remove_if_empty(folder)


def is_done(folder: Path, job: SlurmJob) -> bool:
    """Return whether the run in a folder is done, by what both it and its job in SLURM say."""
    outcome = job.outcome()
    return outcome is not None and outcome.reason is None and has_finished(folder)


def folder_name(overrides: Sequence[str]) -> str:
    """Name of a job's folder, which the sweeper hands over as one of its overrides."""
    subdir = next(o for o in reversed(overrides) if o.startswith(SUBDIR))
    return str(OverridesParser.create().parse_override(subdir).value())


def outcome_of(job: JobReturn) -> Outcome:
    """Return the report of a job in SLURM to the launcher."""
    if job.status == JobStatus.COMPLETED:
        return Outcome(None, job.return_value)
    return Outcome.of_error(job._return_value)


def as_return(outcome: Outcome) -> JobReturn:
    """Return an outcome as Hydra and the sweeper want it."""
    result = JobReturn()
    failed = outcome.reason is not None
    result.status = JobStatus.FAILED if failed else JobStatus.COMPLETED
    result.return_value = outcome.error() if failed else outcome.objective
    return result
