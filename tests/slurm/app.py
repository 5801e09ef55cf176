"""launch.py for jobs that fail in ways that depend on their seed.

1 has a bug; 2 is killed; 3 hears no signal, never ends and has a minute of time; 4 and 5 wait for
each other before they run, and note the devices they were given.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig

from temporal_sae.cli import run_command_line, run_job

CONF = Path(__file__).resolve().parents[2] / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def launch(cfg):
    """One job."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    if cfg.seed == 1:
        raise ValueError("a bug")
    if cfg.seed == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if cfg.seed == 3:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        limit = ("TimeLimit=1", f"JobId={os.environ['SLURM_JOB_ID']}")
        subprocess.run(["scontrol", "update", *limit], check=True)
        time.sleep(600)
    (folder / "device").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
    while len(list(folder.parent.glob("*/device"))) < 2:
        time.sleep(0.1)
    return run_job(cfg)


if __name__ == "__main__":
    run_command_line(launch, CONF)
