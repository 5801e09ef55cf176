"""Jobs that take a moment, for `test_local`, and a launcher for them without a command line.

`python local_jobs.py FOLDER WORKERS KIND...` launches one job of each kind, as a process that can
be killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.types import HydraContext
from omegaconf import DictConfig

from temporal_sae.errors import JobRefused
from temporal_sae.sweep import local

CONFIG = """
defaults: [_self_, override hydra/job_logging: none, override hydra/hydra_logging: none]
kind: sleep
seconds: 0.5
number: 0
hydra: {output_subdir: null}
"""
FOREVER = 600


def act(cfg: DictConfig) -> float:
    """One job: says that it has begun, does what its kind is, says that it has ended."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    rank = os.environ.get("RANK", "0")
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "RANK", "WORLD_SIZE", "MASTER_PORT")
    seen = {name: os.environ.get(name) for name in names} | {"pid": os.getpid()}
    note(folder / f"began{rank}", json.dumps({**seen, "time": time.monotonic()}))
    sys.stdout.write(f"a job of kind {cfg.kind}\n")
    KINDS[cfg.kind](cfg, folder)
    note(folder / f"ended{rank}", str(time.monotonic()))
    return cfg.number / 2


def note(path: Path, text: str) -> None:
    """A file that has its content from the moment it is there."""
    path.with_suffix(".part").write_text(text)
    path.with_suffix(".part").rename(path)


def crash(cfg: DictConfig, folder: Path) -> None:
    raise ValueError("no luck\nat all")


def refuse(cfg: DictConfig, folder: Path) -> None:
    raise JobRefused(f"kind={cfg.kind}: must be another")


def with_child(cfg: DictConfig, folder: Path) -> None:
    """Starts a process that would outlive it."""
    child = subprocess.Popen(["sleep", str(FOREVER)])
    note(folder / "child", str(child.pid))
    time.sleep(cfg.seconds if cfg.seconds > 1 else FOREVER)


def stubborn(cfg: DictConfig, folder: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with_child(cfg, folder)


def kill_parent(cfg: DictConfig, folder: Path) -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(FOREVER)


def one_rank_dies(cfg: DictConfig, folder: Path) -> None:
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(FOREVER)


KINDS: dict[str, Callable[[DictConfig, Path], object]] = {
    "sleep": lambda cfg, folder: time.sleep(cfg.seconds),
    "crash": crash,
    "refuse": refuse,
    "sigkill": lambda cfg, folder: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda cfg, folder: sys.exit(7),
    "with_child": with_child,
    "stubborn": stubborn,
    "kill_parent": kill_parent,
    "one_rank_dies": one_rank_dies,
}


def launch(folder: Path, kinds: Sequence[str], **options: Any) -> list[JobReturn]:
    """Launch a job of each kind, each in a folder with its number."""
    conf = folder / "conf"
    conf.mkdir(parents=True, exist_ok=True)
    (conf / "config.yaml").write_text(CONFIG)
    with initialize_config_dir(str(conf), version_base="1.3"):
        config = compose("config", [f"hydra.sweep.dir={folder}/sweep"], return_hydra_config=True)
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        launcher = local.LocalLauncher(**options)
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())
        launcher.setup(hydra_context=context, task_function=act, config=config)
        jobs = [
            [f"kind={kind}", f"number={n}", f"hydra.sweep.subdir='{n}'"]
            for n, kind in enumerate(kinds)
        ]
        return launcher.launch(jobs, 0)


if __name__ == "__main__":
    local.PRELOADED = ()
    launch(Path(sys.argv[1]), sys.argv[3:], devices="cpu", workers=int(sys.argv[2]))
