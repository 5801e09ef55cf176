"""A worker whose jobs take a moment, for `test_local`: what they do is their `kind`."""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from temporal_sae import signals
from temporal_sae.sweep.claims import Claims
from temporal_sae.sweep.plan import SweepFolder
from temporal_sae.sweep.states import Outcome, worker_name
from tests.slurm.cluster import wait_until
from tests.sweep.folders import is_alive, planned

FOREVER = 600
SEEN = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "RANK", "WORLD_SIZE", "MASTER_PORT")


def note(path, text):
    """A file that has its content from the moment it is there."""
    path.with_suffix(".part").write_text(text)
    path.with_suffix(".part").rename(path)


def with_child(folder):
    """Starts a process that would outlive it."""
    note(folder / "child", str(subprocess.Popen(["sleep", str(FOREVER)]).pid))
    time.sleep(FOREVER)


def stubborn(folder):
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with_child(folder)


def one_rank_dies(folder):
    """The second process dies once the first is at work."""
    if os.environ["RANK"] == "1":
        began = folder / "began0"  # there may be one of an earlier attempt
        wait_until(lambda: began.exists() and is_alive(pid_in(began)), "the first process")
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(FOREVER)


def pid_in(began):
    return json.loads(began.read_text())["pid"]


KINDS = {
    "sleep": lambda folder: time.sleep(0.2),
    "sigkill": lambda folder: os.kill(os.getpid(), signal.SIGKILL),
    "with_child": with_child,
    "stubborn": stubborn,
    "one_rank_dies": one_rank_dies,
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--lifeline", action="store_true")
    for name in ("--place", "--workers", "--plugins"):
        parser.add_argument(name, default="1")
    options = parser.parse_args()
    if options.plugins == "broken":
        sys.exit("error: plugins='broken': must be another")
    threading.Thread(target=signals.stop_when_alone, daemon=True).start()
    folder, rank = SweepFolder(options.folder), os.environ.get("RANK", "0")
    claims = Claims(
        folder, worker_name(os.getpid()), int(options.workers), str, lambda config: None
    )
    if rank != "0":  # the first process decides for all; here they know
        do(folder.path / folder.jobs()[0].folder, folder.configs()[0], rank)
        return
    while mine := claims.take(most=1):
        do(folder.path / mine[0].job.folder, mine[0].config, rank)
        claims.settle(mine[0].job.number, Outcome())


def do(folder, config, rank):
    folder.mkdir(exist_ok=True)
    seen = {name: os.environ.get(name) for name in SEEN}
    began = {**seen, "pid": os.getpid(), "time": time.monotonic()}
    note(folder / f"began{rank}", json.dumps(began))
    KINDS[config["kind"]](folder)
    note(folder / f"ended{rank}", str(time.monotonic()))


def launch(folder, kinds, plugins=(), **options):
    """Have one job of each kind done; returns the reason of those that are not."""
    from temporal_sae.sweep import local, slots

    slots.WORKER = (sys.executable, "-P", __file__)
    sweep = planned(folder, [{"kind": kind} for kind in kinds], name="{}")
    return local.LocalLauncher(**options).work(sweep, range(len(kinds)), plugins)


if __name__ == "__main__":
    if sys.argv[1] == "launch":
        with signals.ending():
            launch(Path(sys.argv[2]), sys.argv[4:], devices="cpu", workers=int(sys.argv[3]))
    else:
        main()
