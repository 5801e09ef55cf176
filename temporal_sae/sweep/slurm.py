"""`hydra/launcher=slurm`: an array of workers on a SLURM cluster.

The workers find their jobs in the folder and leave there what has come of them; SLURM is asked only
whether there are workers. So the launcher may be killed and started again at any time, and nothing
depends on SLURM's accounting, which not every cluster has.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from temporal_sae.commands import module_command, short
from temporal_sae.errors import InvalidOption, RunError, check_int, printable
from temporal_sae.files import write_atomically
from temporal_sae.programs import answer_of
from temporal_sae.report.sweep_progress import LiveTable, say
from temporal_sae.sweep.local import last_words
from temporal_sae.sweep.plan import SweepFolder
from temporal_sae.sweep.slots import worker_words
from temporal_sae.sweep.states import AGAIN
from temporal_sae.sweep.status import read_sweep

GROUP = "hydra.launcher"
SECONDS_TO_ANSWER = 30.0  # a client gives up by itself after about 10
SECONDS_TO_SUBMIT = 600.0
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_BETWEEN_QUESTIONS = 5.0
SECONDS_UNTIL_GONE = 4.0  # one that is put back into the queue may not be seen for a moment
SECONDS_OF_SILENCE = 60.0
# Without a sign of life, which workers give every ten: a controller that was killed has forgotten
# its last moments, and may believe for half an hour that a worker runs which has ended.
SECONDS_UNTIL_DISBELIEVED = 45.0
BELIEVED_TO_RUN = ("RUNNING", "COMPLETING")
NO_CONTROLLER = "Unable to contact slurm controller"
LARGEST_ARRAY = 1001  # SLURM's own default
# The shell, and all else but its worker, ends when SLURM ends the job: then it does not come here.
SCRIPT = """\
#!/bin/bash
# srun takes no word from sbatch on processors since SLURM 22.05, and threads take all of a node's.
export SRUN_CPUS_PER_TASK=${{SLURM_CPUS_PER_TASK:-1}}
export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-${{SLURM_CPUS_PER_TASK:-1}}}}
export PYTHONPATH={pythonpath} PYTHONFAULTHANDLER=1
work={work}
alive=$work/worker_$SLURM_ARRAY_TASK_ID.alive
(while kill -0 $$; do touch "$alive"; sleep 10; done) > /dev/null 2>&1 &
{setup}
srun --kill-on-bad-exit=1 {worker} --place "SLURM $SLURM_JOB_ID on $SLURMD_NODENAME"
code=$?
# {again}: its time is over; above 128: it was killed. Whoever claims then knows which job to doubt.
[ $code -eq {again} ] || [ $code -gt 128 ] || exit $code
limits=$work/worker_$SLURM_ARRAY_TASK_ID.limits
if [ $SECONDS -ge {seconds} ]; then echo >> "$limits"; fi
if [ -f "$limits" ] && [ $(wc -l < "$limits") -gt {most} ]; then
  echo "error: hydra.launcher.max_num_timeout={most}: more time limits have been reached"
  exit 1
fi
for try in $(seq 60); do
  # Not $SLURM_JOB_ID, which for one of them is the whole array.
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID" && exit $code
  sleep 2
done
exit $code
"""


class SlurmLauncher:
    """Submits workers as one array, and waits until their jobs are done.

    What the options mean is said in `conf/hydra/launcher/slurm.yaml`.
    """

    def __init__(
        self,
        partition: str | None = None,
        account: str | None = None,
        constraint: str | None = None,
        timeout_min: int = 240,
        gpus_per_node: int | None = 1,
        cpus_per_task: int = 8,
        mem_gb: float | None = None,
        additional_parameters: Mapping[str, Any] | None = None,
        setup: Sequence[str] | None = None,
        nodes: int = 1,
        tasks_per_node: int = 1,
        array_parallelism: int = 256,
        signal_delay_s: int = 120,
        max_num_timeout: int = 100,
    ) -> None:
        def whole(name: str, value: Any, minimum: int = 1) -> int:
            return check_int(f"{GROUP}.{name}", value, minimum)

        self.seconds = 60 * whole("timeout_min", timeout_min)
        self.delay = whole("signal_delay_s", signal_delay_s)
        if self.delay >= self.seconds:
            allowed = f"less than the time limit, {GROUP}.timeout_min={timeout_min}"
            raise InvalidOption(f"{GROUP}.signal_delay_s", signal_delay_s, allowed)
        self.most_workers = whole("array_parallelism", array_parallelism)
        self.most_timeouts = whole("max_num_timeout", max_num_timeout, 0)
        self.setup_lines = [str(line) for line in setup or ()]
        self.options = {
            "time": whole("timeout_min", timeout_min),
            "signal": f"USR2@{self.delay}",
            "nodes": whole("nodes", nodes),
            "ntasks-per-node": whole("tasks_per_node", tasks_per_node),
            "cpus-per-task": whole("cpus_per_task", cpus_per_task),
            "gpus-per-node": gpus_per_node,
            "mem": None if mem_gb is None else f"{mem_gb}G",
            "partition": partition,
            "account": account,
            "constraint": constraint,
            **{str(k).replace("_", "-"): v for k, v in (additional_parameters or {}).items()},
        }

    def work(self, folder: SweepFolder, numbers: Sequence[int], plugins: Sequence[str]) -> str:
        """See `session.Launcher`; workers of an earlier command are waited for first.

        Raises:
            RunError: SLURM is not there, or does not take these workers.
            KeyboardInterrupt: by Ctrl-C or SIGTERM; the workers stay in the queue.
        """
        if missing := [name for name in ("sbatch", "srun", "squeue") if not shutil.which(name)]:
            raise RunError(f"hydra/launcher=slurm: needs {missing[0]}, which is not in PATH")
        name = array_name(folder.path)
        while (tasks := in_queue(name)) is None:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        try:
            if tasks:
                folder.note("slurm_job", max((array for array, _ in tasks), key=int))
                say(f"workers are in the queue or run already: {arrays_of(tasks)}")
                wait_for(name, folder, numbers)
            if left := still_open(folder, numbers):
                array = self._submit(name, folder, len(left), plugins)
                folder.note("slurm_job", array)
                say(f"submitted {array}; logs: {short(folder.work.absolute())}/worker_*.log")
                wait_for(name, folder, numbers)
        except KeyboardInterrupt:
            if tasks := in_queue(name):
                n = len(still_open(folder, numbers))
                say(f"{n} jobs go on; to cancel them: scancel {arrays_of(tasks)}")
                where = short(folder.path.absolute())
                say(f"to watch them: {module_command('temporal_sae.sweep', where, '--watch')}")
            raise
        return why_lost(folder) if still_open(folder, numbers) else ""

    def _submit(self, name: str, folder: SweepFolder, n_jobs: int, plugins: Sequence[str]) -> str:
        """Submit an array of workers and return its id; try again while nobody answers.

        Raises:
            RunError: SLURM refuses it, or does not answer for ten minutes.
        """
        n_workers = min(n_jobs, self.most_workers, largest_array())
        work = folder.work.absolute()
        write_atomically(work / "worker.sh", self._script(folder, n_workers, plugins))
        options = {
            "job-name": name,
            "array": f"0-{n_workers - 1}",
            "output": str(work).replace("%", "%%") + "/worker_%a.log",
            "open-mode": "append",
            "requeue": True,
            **self.options,
        }
        command = ["sbatch", "--parsable", *as_words(options), str(work / "worker.sh")]
        end_of_patience = time.monotonic() + SECONDS_TO_SUBMIT
        while True:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return done.stdout.split(";")[0].strip()
            if NO_CONTROLLER not in done.stderr or time.monotonic() > end_of_patience:
                why = "".join(done.stderr.strip().splitlines()[-1:])
                raise RunError(f"hydra/launcher=slurm: {printable(why)}")
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _script(self, folder: SweepFolder, n_workers: int, plugins: Sequence[str]) -> str:
        """Return what every job of the array does."""
        work = folder.work.absolute()
        words = [*worker_words(folder.path, n_workers, plugins), "--queued"]
        return SCRIPT.format(
            pythonpath=shlex.quote(os.pathsep.join(path for path in sys.path if path)),
            setup="\n".join(self.setup_lines),
            worker=shlex.join(words),
            again=AGAIN,
            work=shlex.quote(str(work)),
            # SLURM looks at its clock about twice a minute.
            seconds=max(1, self.seconds - self.delay - 60),
            most=self.most_timeouts,
        )


def array_name(folder: Path) -> str:
    """Return the name that the workers of a sweep have in the queue."""
    absolute = folder.absolute()
    place = hashlib.sha256(os.fsencode(absolute)).hexdigest()[:10]
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', absolute.name)[:40]}-{place}"


def as_words(options: Mapping[str, Any]) -> list[str]:
    """Return options of sbatch; None and false: not given, true: without a value."""
    given = {name: value for name, value in options.items() if value not in (None, False)}
    return [f"--{name}" if v is True else f"--{name}={v}" for name, v in given.items()]


def ask(*command: str) -> str | None:
    """Return the output of a client of SLURM, None if it fails."""
    return answer_of(*command, seconds=SECONDS_TO_ANSWER)


def in_queue(name: str) -> list[tuple[str, str]] | None:
    """Return array and state of the workers of that name that have not ended; None: no answer."""
    answer = ask("squeue", "--me", "--noheader", "--array", f"--name={name}", "--format=%F %T")
    words = [line.split() for line in (answer or "").splitlines()]
    return None if answer is None else [(w[0], w[1]) for w in words if len(w) == 2]


def arrays_of(tasks: Sequence[tuple[str, str]]) -> str:
    """Return the ids of the arrays of these workers, as words."""
    return " ".join(sorted({array for array, _ in tasks}))


def largest_array() -> int:
    """Return how many workers an array may have."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config") or "")
    return max(1, int(found[1])) if found else LARGEST_ARRAY


def still_open(folder: SweepFolder, numbers: Sequence[int]) -> list[int]:
    """Return the jobs that have not come to their end."""
    return [number for number in numbers if folder.states.read(number).outcome is None]


def wait_for(name: str, folder: SweepFolder, numbers: Sequence[int]) -> None:
    """Show how the sweep goes on until all jobs are done, or all workers are gone."""
    seen = alive = answered = asked = time.monotonic()
    signs, console = signs_of_life(folder), Console()
    with LiveTable(lambda: read_sweep(folder.path), console) as table:
        while folder.exists() and still_open(folder, numbers):
            table.update()
            time.sleep(SECONDS_BETWEEN_LOOKS)
            now = time.monotonic()
            if now - asked < SECONDS_BETWEEN_QUESTIONS:
                continue
            asked, tasks = now, in_queue(name)
            if tasks is None:
                if now - answered > SECONDS_OF_SILENCE:
                    say("SLURM does not answer; waiting until it does", console)
                    answered = now
                seen = alive = now
                continue
            before, signs = signs, signs_of_life(folder)
            if signs != before or any(state not in BELIEVED_TO_RUN for _, state in tasks):
                alive = now
            answered = now
            seen = now if tasks else seen
            if now - seen > SECONDS_UNTIL_GONE:
                return
            if now - alive > SECONDS_UNTIL_DISBELIEVED:
                ask("scancel", *arrays_of(tasks).split())
                return


def signs_of_life(folder: SweepFolder) -> dict[str, int]:
    """Return when each worker was last known to be alive, by its own clock."""
    return {path.name: path.stat().st_mtime_ns for path in folder.work.glob("worker_*.alive")}


def why_lost(folder: SweepFolder) -> str:
    """Return why the workers of a sweep have left jobs undone, as far as SLURM remembers."""
    array = str(folder.read().get("slurm_job"))
    answer = ask("squeue", "--me", "--states=all", "--noheader", "--array", "--format=%F %K %T")
    tasks = [line.split() for line in (answer or "").splitlines()]
    ended = [t[1:] for t in tasks if len(t) == 3 and t[0] == array and t[2] != "COMPLETED"]
    place, state = ended[0] if ended else ("0", "its workers have ended")
    words = last_words(folder.work / f"worker_{place}.log")
    return f"SLURM job {array}_{place}: {state}{words}"
