"""Tokens a second and peak memory of a TopK training step: `python benchmarks/step.py`.

Ours, plain and with the method on (windows of 1000 tokens, the default penalty), beside SAELens,
sparsify and dictionary_learning from their released packages. Each is trained by its own trainer
(see peers.py and ours.py) on the same batch, with as many threads; a step is the time between two
requests for a batch, so it holds everything a trainer does but logging and saving. No latent is
dead yet, so that nobody's AuxK has work. Peak memory is what building the model and training it
adds to a process that has already trained a tiny one. Every measurement runs in a process of its
own, one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

# As `launch.py` has it: threads that spin while they wait take the cores from numba's threads, and
# from anything else that runs. Every subject gets the same.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from common import (
    MIB,
    SECONDS_ENOUGH,
    PeakMemory,
    device_name,
    run_apart,
    synchronize,
    zipf_latents,
)
from ours import WINDOW
from peers import SUBJECTS, versions
from rich.console import Console
from rich.table import Table
from settings import Settings, Tokens, Unsupported
from torch import Tensor

from temporal_sae.machine import free_memory
from temporal_sae.sae.step_ops import prefers_rows
from temporal_sae.tracker.choice import choose_storage, dense_bytes

SHAPES = {  # d_in, F, k, batch
    "tiny": (128, 2048, 32, 1024),
    "4608": (2304, 4608, 160, 2048),
    "18432": (2304, 18432, 320, 2048),
    "65536": (2304, 65536, 64, 2048),
}
TINY = {"d_in": 64, "d_sae": 2048, "k": 16, "batch": 1024}  # to warm up: the penalty samples here
STEPS = 100_000  # of the schedule; the measurement ends long before
MOST_STEPS = 900  # after 1000 steps of silence SAELens calls a latent dead
SECONDS_AT_LEAST = 3
ACTIVE_DIRECTIONS = 32


class Enough(Exception):
    """All steps wanted have been timed."""


class Clock(Tokens):
    """One batch, the same at every step; times the steps and ends the run by an exception.

    A card is waited for only once in ten steps, so that it is kept as busy as in training.

    Args:
        x: the batch.
        repeats: how many times to take at least; fewer when they take long, more when short.
    """

    def __init__(self, x: Tensor, repeats: int) -> None:
        super().__init__(x, len(x))
        on_card = x.device.type == "cuda"
        self.repeats, self.block, self.unmeasured = repeats, *((10, 10) if on_card else (1, 2))
        self.seconds: list[float] = []

    def __next__(self) -> Tensor:
        at_edge = (len(self.times) - self.unmeasured) % self.block == 0
        if at_edge and len(self.times) >= self.unmeasured:
            synchronize(self.x.device)
        x = super().__next__()
        if at_edge and len(self.times) > self.unmeasured + self.block:
            self.seconds.append((self.times[-1] - self.times[-1 - self.block]) / self.block)
            if self._enough():
                raise Enough
        return x

    def _enough(self) -> bool:
        spent, n = sum(self.seconds) * self.block, len(self.seconds)
        done = n >= self.repeats and spent > SECONDS_AT_LEAST
        too_long = n > 1 and spent > SECONDS_ENOUGH
        return done or too_long or len(self.times) > MOST_STEPS


def mixtures(batch: int, d_in: int) -> Tensor:
    """Sparse mixtures of 2d directions, as often in use as Zipf's law has it, with E|x|² = 1."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(2 * d_in, d_in, generator=generator)
    chosen = zipf_latents(batch, 2 * d_in, ACTIVE_DIRECTIONS)
    values = torch.rand(chosen.shape, generator=generator) * (chosen >= 0)
    x = torch.nn.functional.embedding_bag(
        chosen.clamp(min=0), directions, per_sample_weights=values, mode="sum"
    )
    return x / x.square().sum(-1).mean().sqrt()


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """One measurement, in this process."""
    subject, settings = job["subject"], Settings(**job["settings"])
    if subject == "ours+method":
        storage, _ = choose_storage(
            "auto", settings.d_sae, settings.k, WINDOW, torch.device(settings.device)
        )
        settings = replace(settings, storage=storage)
    x = mixtures(settings.batch, settings.d_in).to(settings.device)
    try:
        train(subject, replace(settings, **TINY), mixtures(TINY["batch"], TINY["d_in"]), 2)
    except ImportError as error:
        return {"skipped": f"not importable: {error.name}"}
    except Unsupported as error:
        return {"skipped": str(error)}
    meter = PeakMemory(x.device)
    seconds = train(subject, settings, x, job["repeats"])
    median = statistics.median(seconds)
    return {
        "seconds": median,
        "fastest": min(seconds),
        "tokens_per_second": settings.batch / median,
        "peak_mib": meter.bytes() / MIB,
        "repeats": len(seconds),
        **({"storage": settings.storage} if subject == "ours+method" else {}),
    }


def train(subject: str, settings: Settings, x: Tensor, repeats: int) -> list[float]:
    """Seconds of each step that was timed."""
    clock = Clock(x.to(settings.device), repeats)
    try:
        SUBJECTS[subject](settings, clock)
    except Enough:
        return clock.seconds
    raise RuntimeError(f"{subject} ended by itself")


def needed_bytes(subject: str, d_in: int, d_sae: int, k: int, batch: int) -> int:
    """Roughly what a subject takes, so that what cannot fit is not tried."""
    weights, dense = 4 * 2 * d_in * d_sae, 4 * batch * d_sae
    if subject.startswith("ours") and prefers_rows(d_sae, batch * k):  # and screens the encoder
        return 3 * weights + 2 * 2**30
    extra = {
        "ours": 0,
        "ours+method": min(dense_bytes(d_sae), 8 * 2**30),
        "SAELens": 3 * dense,
        "sparsify": 2 * 4 * batch * k * d_in,
        "dictionary_learning": weights + 3 * dense,
    }
    return 4 * weights + 5 * dense + extra[subject]


def run_all(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every subject at every shape."""
    results = []
    for d_in, d_sae, k, batch in args.shapes:
        shape = {"d_in": d_in, "d_sae": d_sae, "k": k, "batch": args.batch or batch}
        settings = Settings(
            **shape,
            steps=STEPS,
            device=args.device,
            precision=args.precision or "float32",
            ours=options_of_ours(args),
        )
        for subject in args.subjects:
            needed, free = needed_bytes(subject, **shape), free_memory(torch.device(args.device))
            if free is not None and needed > 0.95 * free.n_bytes:
                row = {"skipped": f"needs about {needed / 2**30:.0f} GiB"}
            else:
                job = {"subject": subject, "settings": asdict(settings), "repeats": args.repeats}
                row = run_apart(__file__, job)
            results.append({**shape, "subject": subject, **row})
            print(results[-1], file=sys.stderr)
    return results


def options_of_ours(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options that only our Trainer has, where they were asked for."""
    given = {
        "precision": args.precision,
        "step": args.step,
        "encoder": args.encoder,
        "gradients": args.gradients,
        "compile": args.compile or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def table_of(results: list[dict[str, Any]], title: str) -> Table:
    """One line a measurement."""
    names = ("d, F, k, batch", "", "s/step", "tokens/s", "of ours", "peak MiB")
    table = Table(*names, title=title, title_justify="left")
    shapes = [(r["d_in"], r["d_sae"], r["k"], r["batch"]) for r in results]
    ours = {
        shape: r["tokens_per_second"]
        for shape, r in zip(shapes, results, strict=True)
        if r["subject"] == "ours" and "seconds" in r
    }
    for shape, r in zip(shapes, results, strict=True):
        if "skipped" in r:
            table.add_row(str(shape), r["subject"], r["skipped"])
            continue
        share = f"{r['tokens_per_second'] / ours[shape]:.2f}" if shape in ours else ""
        table.add_row(
            str(shape),
            r["subject"],
            f"{r['seconds']:,.4g}",
            f"{r['tokens_per_second']:,.0f}",
            share,
            f"{r['peak_mib']:,.0f}",
        )
    return table


def shape_of(text: str) -> tuple[int, int, int, int]:
    """A shape's name, or `d_in,F,k,batch`."""
    if text in SHAPES:
        return SHAPES[text]
    d_in, d_sae, k, batch = (int(part) for part in text.split(","))
    return d_in, d_sae, k, batch


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    names = ", ".join(SHAPES)
    parser.add_argument(
        "--shapes",
        type=shape_of,
        nargs="+",
        default=tuple(SHAPES.values()),
        help=f"{names}, or d_in,F,k,batch",
    )
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=tuple(SUBJECTS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="default: float32")
    parser.add_argument("--batch", type=int, help="instead of each shape's own")
    parser.add_argument("--step", help="option of our Trainer")
    parser.add_argument("--encoder", help="option of our Trainer")
    parser.add_argument("--gradients", help="option of our Trainer")
    parser.add_argument("--compile", action="store_true", help="option of our Trainer")
    parser.add_argument("--out", type=Path, help="also save the figures as JSON")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.job:
        print(json.dumps(measure(args.job)))
        return
    name = device_name(torch.device(args.device))
    results = run_all(args)
    Console(width=110).print(table_of(results, f"{name}, {args.precision or 'float32'}"))
    if args.out:
        saved = {
            "device": name,
            "versions": versions(),
            "options": {
                "precision": args.precision or "float32",
                "OMP_WAIT_POLICY": os.environ["OMP_WAIT_POLICY"],
                "ours": options_of_ours(args),
            },
            "results": results,
        }
        args.out.write_text(json.dumps(saved, indent=1) + "\n")


if __name__ == "__main__":
    main()
