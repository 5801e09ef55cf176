"""A sweep with hydra/launcher=local beside Hydra's own launcher: `python benchmarks/sweep.py`.

The same jobs (the bundled model and the default data, another tracker.window_size each, evaluated)
one after the other with all cores, as `hydra/launcher=basic` runs them, and on as many CPU workers
as there are cores. Every sweep is a process of its own with a folder that is deleted, so that the
time holds the imports and everything else. Their order changes from repeat to repeat, and a short
run comes before, which compiles what numba keeps. Processor seconds are those of the sweep and all
its processes: where they add up to much less than the cores had to give, something else was
running, or the cores were idle.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import device_name
from rich.console import Console
from rich.table import Table

LAUNCH = Path(__file__).resolve().parents[1] / "launch.py"
LAUNCHERS = ("basic", "local")
FIRST_WINDOW = 300


def run(arguments: list[str]) -> dict[str, float]:
    """Wall and processor seconds of one command line, which has to succeed."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, str(LAUNCH), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wall = time.monotonic() - began
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}:\n{done.stdout}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_seconds": wall, "processor_seconds": spent}


def sweep(launcher: str, jobs: int, tokens: int, workers: int, further: list[str]) -> dict:
    """One sweep, in a folder that is deleted."""
    folder = tempfile.mkdtemp()
    windows = ",".join(str(FIRST_WINDOW + 100 * n) for n in range(jobs))
    slots = ["hydra.launcher.devices=cpu", f"hydra.launcher.workers={workers}"]
    try:
        return run(
            [
                "-m",
                f"hydra/launcher={launcher}",
                *(slots if launcher == "local" else []),
                "device=cpu",
                f"trainer.num_tokens={tokens}",
                f"tracker.window_size={windows}",
                *further,
                f"hydra.sweep.dir={folder}/sweep",
            ]
        )
    finally:
        shutil.rmtree(folder)


def measure(arguments: argparse.Namespace, tokens: int) -> dict[str, Any]:
    """Both launchers, several times, in changing order."""
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in LAUNCHERS}
    for repeat in range(arguments.repeats):
        for launcher in LAUNCHERS[:: -1 if repeat % 2 else 1]:
            seconds[launcher].append(
                sweep(launcher, arguments.jobs, tokens, arguments.workers, arguments.options)
            )
    medians = {
        name: {key: statistics.median(each[key] for each in runs) for key in runs[0]}
        for name, runs in seconds.items()
    }
    ratio = medians["basic"]["wall_seconds"] / medians["local"]["wall_seconds"]
    return {"tokens": tokens, **medians, "times_faster": ratio, "all": seconds}


def show(console: Console, rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """The table for people."""
    table = Table(title=f"{arguments.jobs} jobs, {arguments.workers} workers")
    for column in ("tokens a job", "basic, s", "local, s", "times faster", "CPU s: basic", "local"):
        table.add_column(column, justify="right")
    for row in rows:
        basic, local = row["basic"], row["local"]
        table.add_row(
            f"{row['tokens']:,}",
            f"{basic['wall_seconds']:.1f}",
            f"{local['wall_seconds']:.1f}",
            f"{row['times_faster']:.2f}",
            f"{basic['processor_seconds']:.0f}",
            f"{local['processor_seconds']:.0f}",
        )
    console.print(table)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=6)
    parser.add_argument("--tokens", type=int, nargs="+", default=[50_000, 100_000])
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--output", type=Path, help="a JSON file for the numbers")
    parser.add_argument("options", nargs="*", help="further overrides of all jobs")
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        run(["trainer.num_tokens=50_000", "device=cpu", f"hydra.run.dir={folder}/run"])
    rows = []
    for tokens in arguments.tokens:
        rows.append(measure(arguments, tokens))
        console.print(json.dumps(rows[-1]), soft_wrap=True, highlight=False)
    show(console, rows, arguments)
    if arguments.output:
        about = {"device": device_name(torch.device("cpu")), "cores": os.cpu_count()}
        about |= {"jobs": arguments.jobs, "workers": arguments.workers}
        arguments.output.write_text(json.dumps({**about, "sweeps": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
