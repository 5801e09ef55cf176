"""Runs on one store in forks of one process, which are killed: `killed_runs.py FOLDER OVERRIDES`.

The process has imported all that a run needs and has no threads, so that a fork begins at once.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from importlib import import_module
from pathlib import Path

from temporal_sae.activations.store.care import problems_of
from temporal_sae.activations.store.folder import StoreFolder
from temporal_sae.experiment import run_experiment
from temporal_sae.explain import composed
from tests.forks import PRELOADED

N_KILLS = 20


def start(overrides, folder):
    """Begin a run, or go on with it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            run_experiment(composed(overrides), folder)
            code = 0
        finally:
            os._exit(code)
    return pid


def ended(pid, seconds):
    """Wait for a run, and kill it after so many seconds; return whether it has ended itself."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            assert status == 0, "the run has failed"
            return True
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def is_finished(folder):
    """Return whether a run had written all it has to, though it may have been killed after that."""
    record = folder / "run.json"
    return record.exists() and json.loads(record.read_text())["status"] == "finished"


def check_valid(store):
    """Whatever is there is whole."""
    if store.exists():
        for problem in (
            problems_of(StoreFolder(store)) if (store / "manifest.json").exists() else ()
        ):
            assert "is unfinished" in problem, problem


def main(root, *overrides):
    """Run undisturbed, with kills, and two at a time."""
    for name in PRELOADED:
        import_module(name)
    root, draw = Path(root), random.Random(0)

    def on(store):
        return [*overrides, f"activations.path={root / store}"]

    began = time.monotonic()
    assert ended(start(on("whole"), root / "undisturbed"), 1e9)
    seconds, kills = time.monotonic() - began, 0
    while kills < N_KILLS:
        kills += not ended(start(on("killed"), root / "disturbed"), draw.uniform(0, seconds))
        if is_finished(root / "disturbed"):
            shutil.rmtree(root / "disturbed")
            shutil.rmtree(root / draw.choice(["killed", "nothing"]), ignore_errors=True)
        check_valid(root / "killed")
    assert ended(start(on("killed"), root / "disturbed"), 1e9)
    pair = [start(on("both"), root / f"together{n}") for n in range(2)]
    for pid in pair:
        assert ended(pid, 1e9)
    first, second = (start(on("inherited"), root / f"one{n}") for n in range(2))
    ended(first, seconds / 4)
    assert ended(second, 1e9)
    print(f"{kills} kills, {seconds:.1f} s undisturbed")  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
