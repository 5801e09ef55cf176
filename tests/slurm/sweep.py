"""A sweep on the cluster as a person starts it, and what it leaves."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.slurm.cluster import PATIENCE, wait_until

ROOT = Path(__file__).parents[2]
QUICK = (
    "model.hook_name=blocks.1.hook_resid_post",
    "activations.context_size=32",
    "activations.buffer_tokens=2048",
    "sae.d_sae=256",
    "sae.k=8",
    "trainer.num_tokens=51_200",
    "trainer.batch_size=256",
    "trainer.checkpoint_every=20",
    "trainer.log_every=5",
    "trainer.dead_after_tokens=2000",
    "eval=none",
)
SHORT_EVALUATION = (
    "eval=core",
    "eval.n_sparsity_sequences=8",
    "eval.n_reconstruction_sequences=8",
)
LAUNCHER = (
    "hydra/launcher=slurm",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.gpus_per_node=null",
)
NODE = "+hydra.launcher.additional_parameters.nodelist"
LONGEST = 300  # seconds for a sweep, on a machine with much else to do


def environment(base=os.environ):
    """Without what pytest or an earlier run has set for itself."""
    own = ("HYDRA_FULL_ERROR", "TEMPORAL_SAE_TRACEBACK")
    kept = {k: v for k, v in base.items() if k not in own}
    modules = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": modules}


def plain_run(*arguments):
    """`python launch.py` on this machine."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "launch.py"), *arguments],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


class Sweep:
    """`python launch.py -m hydra/launcher=slurm …` in the background.

    Args:
        cluster: where its jobs run.
        folder: `hydra.sweep.dir`; what is printed goes to a file beside it.
        *arguments: further options.
    """

    launcher = LAUNCHER

    def __init__(self, cluster, folder, *arguments):
        self.cluster, self.folder, self.arguments = cluster, folder, arguments
        self.process = None

    def start(self):
        """Give the command; once more, if it has ended."""
        with self.folder.with_name("output").open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *(
                        sys.executable,
                        str(ROOT / "launch.py"),
                        "-m",
                        *self.launcher,
                        *self.arguments,
                    ),
                    f"hydra.sweep.dir={self.folder}",
                ],
                env=environment(self.cluster.environment if self.cluster else os.environ),
                stdout=output,
                stderr=output,
            )

    def finish(self):
        """Wait for the end of the command; returns its exit code."""
        return self.process.wait(LONGEST)

    def interrupt(self):
        """Ctrl-C; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(2 * PATIENCE)

    def kill(self):
        """SIGKILL to the command alone."""
        self.process.kill()
        self.process.wait()

    @property
    def output(self):
        """All that the command has printed."""
        return self.folder.with_name("output").read_text()

    @property
    def jobs(self):
        """What sweep.json says of every job."""
        try:
            return json.loads((self.folder / "sweep.json").read_text())["jobs"]
        except FileNotFoundError:
            return []

    def slurm_job(self):
        """SLURM's id of the only worker, None before it is noted."""
        array = json.loads((self.folder / "sweep.json").read_text()).get("slurm_job")
        return array and f"{array}_0"

    def job_folder(self, number=0):
        """The folder of a job."""
        return self.folder / self.jobs[number]["folder"]

    def record(self, number=0):
        """run.json of a job."""
        return json.loads((self.job_folder(number) / "run.json").read_text())

    def log(self, number=0):
        """What a job has logged."""
        return (self.job_folder(number) / "log.txt").read_text()

    def step(self, number=0):
        """The last step that a job has logged, 0 before the first."""
        path = self.job_folder(number) / "metrics.jsonl" if self.jobs else None
        lines = path.read_text().splitlines()[-2:] if path and path.exists() else []
        return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)

    def wait_for(self, condition, what):
        """Until it holds; the command must not end before.

        Raises:
            TimeoutError: it does not hold for too long, or the command has ended.
        """

        def known():
            return condition() or self.process.poll() is not None

        wait_until(known, what, 0.02, LONGEST)
        if not condition():
            raise TimeoutError(f"ended without {what}: {self.output}")

    def wait_for_step(self, step, number=0):
        """Until a job has logged that step."""
        self.wait_for(lambda: self.step(number) >= step, f"step {step}")

    def tasks(self, number=0):
        """The process that trains for a job, as long as it is there."""
        try:
            state = json.loads((self.folder / f".sweep/{number}.json").read_text())
        except FileNotFoundError:
            return []
        process = int((state["worker"] or ":0").split(":")[1])
        return [n for n in self.workers() if n == process and not state["outcome"]]

    def workers(self):
        """The processes of all workers, most of which are starting up."""
        return self.cluster.tasks_of()


def weights(folder):
    """The bytes of the trained SAE."""
    return (folder / "sae" / "sae_weights.safetensors").read_bytes()
