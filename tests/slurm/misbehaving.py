"""A logger for runs that fail in ways that depend on their seed.

1 has a bug; 2 is killed; 3 hears no signal, never ends and has a minute of time; 4 and 5 wait for
each other before they run, and note the devices they were given.
"""

import os
import signal
import subprocess
import time

from temporal_sae.training.loggers import JsonlLogger


class Misbehaving(JsonlLogger):
    """Does what the seed says when the run begins."""

    def start(self, about):
        folder, seed = self.path.parent, about.config["seed"]
        if seed == 1:
            raise ValueError("a bug")
        if seed == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if seed == 3:
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
            # Not SLURM_JOB_ID, which for one worker of an array is the whole of it.
            own = "_".join(os.environ[f"SLURM_ARRAY_{name}_ID"] for name in ("JOB", "TASK"))
            limit = ("TimeLimit=1", f"JobId={own}")
            subprocess.run(["scontrol", "update", *limit], check=True)
            time.sleep(600)
        (folder / "device").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
        while len(list(folder.parent.glob("*/device"))) < 2:
            time.sleep(0.1)
