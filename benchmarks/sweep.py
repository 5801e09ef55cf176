"""The cost of jobs that share a stream: `python benchmarks/sweep.py [nine lm full many]`.

Everything is one worker in one process, `hydra/launcher=basic`; each ratio is of one run.

- `nine`: jobs that differ in window and ortho_weight, together against one pass over the stream and
  the steps of each on batches from memory; the weights are those of nine commands, byte for byte.
- `lm`: the same with SAEs so small that the language model has most of a job's time, against nine
  commands; start-up, evaluation and report count on both sides.
- `full`: the 93 jobs of sweep=full at toy size, together against their steps and one pass a seed.
- `many`: 200 jobs of a few steps: seconds a job beyond training, memory and open files.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import itertools
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import temporal_sae  # noqa: F401 - before torch: its threads then sleep here as in a command

# isort: split
import torch
from common import device_name
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from temporal_sae.activations import ActivationBatch
from temporal_sae.commands import CONF
from temporal_sae.experiment.build import Cheap, build_cheap, build_components
from temporal_sae.experiment.determinism import deterministic_on_cpu
from temporal_sae.experiment.memory import Room
from temporal_sae.experiment.source import open_source
from temporal_sae.tracker.stability import StabilityMonitor
from temporal_sae.training import Parts, SharedStream
from temporal_sae.training.stopwatch import now

LAUNCH = Path(__file__).resolve().parents[1] / "launch.py"
NINE = {"tracker.window_size": (500, 1000, 2000), "loss.ortho_weight": (0.3, 1, 3)}
SMALL_SAE = ["sae.d_sae=128", "sae.k=4", "tracker=off", "activations.context_size=128"]
TOY = ["sae.d_sae=256", "sae.k=8", "trainer.batch_size=512", "activations.buffer_tokens=4096"]
TINY = [
    "sae.d_sae=64",
    "sae.k=4",
    "trainer.num_tokens=2048",
    "trainer.batch_size=256",
    "trainer.warmup_steps=0",
    "activations.buffer_tokens=1024",
    "eval.n_reconstruction_sequences=4",
    "eval.n_sparsity_sequences=4",
]


def command(*arguments: str) -> float:
    """Wall seconds of a command line, which has to succeed."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(LAUNCH), "device=cpu", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}:\n{done.stdout}")
    return time.monotonic() - began


def records(folder: Path) -> list[dict[str, Any]]:
    """`run.json` of every job of a sweep."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/run.json"))]


def training_seconds(folder: Path) -> float:
    """Seconds of training of all jobs; each has its share of what they read together."""
    return sum(record["training_seconds"] for record in records(folder))


class Replayed:
    """Batches from memory, in place of a stream."""

    def __init__(self, batches: list[ActivationBatch], sample: torch.Tensor, scale: float) -> None:
        self.batches, self._sample, self.scale, self.ordered = iter(batches), sample, scale, False

    def __next__(self) -> ActivationBatch:
        return next(self.batches)

    def sample(self, n: int) -> torch.Tensor:
        return self._sample

    def metrics(self) -> dict[str, torch.Tensor]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}


def harvested(cheap: Cheap) -> tuple[float, list[ActivationBatch], torch.Tensor, float]:
    """Seconds of reading all batches of a run, the batches, their sample and their scale."""
    stream = cheap.source.stream(cheap.trainer.batch_size, cheap.seed)
    scale, sample = stream.scale, stream.sample(8192)
    began = now()
    batches = [next(stream) for _ in range(cheap.trainer.total_steps)]
    return now() - began, batches, sample, scale


def floor(jobs: list[DictConfig]) -> tuple[float, float]:
    """Seconds of one pass over the stream of these jobs, and of the steps of all from memory."""
    with tempfile.TemporaryDirectory() as folder:
        first = build_cheap(jobs[0], Path(folder))
        open_source(first.source)
        with deterministic_on_cpu(first.device):
            seconds, *rest = harvested(first)
            steps = 0.0
            for cfg in jobs:
                stream = SharedStream(Replayed(*rest))
                cheap = build_cheap(cfg, Path(folder), first.source)
                parts = build_components(cfg, cheap, lambda s=stream: s, Room())
                stability = StabilityMonitor() if parts.tracker.gives_weights else None
                batches = parts.stream
                of_training = Parts(
                    parts.sae, batches, parts.tracker, parts.penalty, stability=stability
                )
                steps += parts.trainer.fit(of_training).seconds
    return seconds, steps


@contextlib.contextmanager
def composed(settings: list[list[str]]) -> Iterator[list[DictConfig]]:
    """The configs of jobs, while logging is silent."""
    logging.disable(logging.INFO)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield [compose("config", ["device=cpu", *overrides]) for overrides in settings]
    logging.disable(logging.NOTSET)


def product(values: dict[str, tuple[Any, ...]]) -> list[list[str]]:
    """Overrides of every combination."""
    return [
        [f"{key}={value}" for key, value in zip(values, combination, strict=True)]
        for combination in itertools.product(*values.values())
    ]


def swept(values: dict[str, tuple[Any, ...]]) -> list[str]:
    """The same on one command line."""
    return [f"{key}={','.join(map(str, options))}" for key, options in values.items()]


def weights(folder: Path) -> list[str]:
    """Hash of every job's weights."""
    found = sorted(folder.glob("*/sae/sae_weights.safetensors"))
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in found]


def side_by_side(tokens: int, options: list[str]) -> dict[str, Any]:
    """Nine jobs in one sweep, the same nine one by one, and the floor of their training."""
    further = [f"trainer.num_tokens={tokens}", *options]
    values = {key: v for key, v in NINE.items() if "tracker=off" not in options} or {
        "trainer.lr": tuple(round(1e-3 * n, 4) for n in range(1, 10))
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command(*further, "eval=none", f"hydra.run.dir={folder / 'warm'}")
        sweep = folder / "sweep"
        wall = command("-m", *swept(values), *further, f"hydra.sweep.dir={sweep}")
        single = 0.0
        for n, overrides in enumerate(product(values)):
            place = f"hydra.run.dir={folder / 'single' / str(n)}"
            single += command(*overrides, *further, place)
        with composed([[*overrides, *further] for overrides in product(values)]) as jobs:
            harvest, steps = floor(jobs)
        training = training_seconds(sweep)
        alone = training_seconds(folder / "single")
        return {
            "tokens": tokens,
            "options": options,
            "training_seconds": training,
            "harvest_seconds": harvest,
            "steps_seconds": steps,
            "training_over_floor": training / (harvest + steps),
            "harvest_share_of_a_job": harvest / (harvest + steps / 9),
            "wall_seconds": wall,
            "nine_commands_seconds": single,
            "wall_over_nine_commands": wall / single,
            "training_over_nine_trainings": training / alone,
            "same_weights": weights(sweep) == weights(folder / "single"),
        }


def full(tokens: int) -> dict[str, Any]:
    """The preset of 93 jobs at toy size."""
    further = [f"trainer.num_tokens={tokens}", *TOY, "eval=none", "objective=explained_variance"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wall = command("sweep=full", *further, f"hydra.sweep.dir={folder}")
        per_seed: dict[int, list[list[str]]] = {}
        for path in sorted(folder.glob("*/.hydra/overrides.yaml")):
            overrides = [line[2:].strip("'") for line in path.read_text().splitlines()]
            record = json.loads((path.parents[1] / "run.json").read_text())
            per_seed.setdefault(record["seed"], []).append(overrides)
        bottom, n_jobs = 0.0, 0
        for settings in per_seed.values():
            with composed(settings) as jobs:
                bottom += sum(floor(jobs))
                n_jobs += len(jobs)
        training = training_seconds(folder)
        return {
            "jobs": n_jobs,
            "tokens": tokens,
            "wall_seconds": wall,
            "training_seconds": training,
            "floor_seconds": bottom,
            "training_over_floor": training / bottom,
        }


WATCHED = """
import json, os, resource, sys, time
from temporal_sae.experiment import run
held = []
conclude = run.Run.finish
def finish(self):
    conclude(self)
    status = open("/proc/self/statm").read().split()
    held.append((int(status[1]) * resource.getpagesize(), len(os.listdir("/proc/self/fd"))))
run.Run.finish = finish
from temporal_sae.cli import main
try:
    main()
finally:
    print("HELD", json.dumps(held), flush=True)
"""


def many(jobs: int) -> dict[str, Any]:
    """Jobs of eight steps each, in one process."""
    values = {"tracker.window_size": tuple(200 + n for n in range(jobs))}
    with tempfile.TemporaryDirectory() as name:
        began = time.monotonic()
        arguments = ["-m", "device=cpu", *swept(values), *TINY, f"hydra.sweep.dir={name}"]
        done = subprocess.run(
            [sys.executable, "-c", WATCHED, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=LAUNCH.parent,
        )
        wall = time.monotonic() - began
        if done.returncode:
            sys.exit(done.stdout)
        told = next(line for line in io.StringIO(done.stdout) if line.startswith("HELD "))
        held = json.loads(told.removeprefix("HELD "))
        training = training_seconds(Path(name))
    quarter, last = held[len(held) // 4], held[-1]
    return {
        "jobs": jobs,
        "wall_seconds": wall,
        "seconds_a_job_beyond_training": (wall - training) / jobs,
        "resident_bytes": {"after a quarter": quarter[0], "at the end": last[0]},
        "open_files": {"after a quarter": quarter[1], "at the end": last[1]},
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    measurements = {
        "nine": lambda a: side_by_side(a.tokens, []),
        "lm": lambda a: side_by_side(a.tokens, SMALL_SAE),
        "full": lambda a: full(a.tokens // 4),
        "many": lambda a: many(a.jobs),
    }
    parser.add_argument("what", nargs="*", default=[*measurements])
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--jobs", type=int, default=200, help="of `many`")
    parser.add_argument("--output", type=Path, help="a JSON file for the numbers")
    arguments = parser.parse_args()
    if unknown := {*arguments.what} - {*measurements}:
        parser.error(f"{unknown.pop()}: must be one of {', '.join(measurements)}")
    found = {"device": device_name(torch.device("cpu")), "cores": os.cpu_count()}
    for name in arguments.what:
        found[name] = measurements[name](arguments)
        print(name, json.dumps(found[name], indent=2), flush=True)
        if arguments.output:
            arguments.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
