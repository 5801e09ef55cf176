"""Time of the tracker and the penalty beside a plain TopK step: `python benchmarks/tracker.py`.

Prints one table of medians in milliseconds; `--out FILE` also saves it as JSON. All rows are
measured in one process, so that their ratios mean something on any machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from temporal_sae.loss import OrthogonalityLoss, reconstruction_loss
from temporal_sae.sae import StepContext, TopKSAE
from temporal_sae.tracker import CoActivationTracker


def zipf_latents(tokens: int, d_sae: int, k: int) -> torch.Tensor:
    """Distinct latents of each token, popular ones more often: int64 [tokens, k]."""
    weights = 1 / torch.arange(1, d_sae + 1).float()
    return torch.multinomial(weights.expand(tokens, d_sae), k)


def median_ms(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Median milliseconds of a call, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[1:])


def measure(d_in: int, d_sae: int, k: int, batch: int, device: torch.device, repeats: int) -> dict:
    """Milliseconds by row of the table."""
    torch.manual_seed(0)
    sae = TopKSAE(d_in, d_sae, k).to(device)
    x = torch.randn(batch, d_in, device=device)
    tracker = CoActivationTracker(d_sae, device=device)
    indices = zipf_latents(max(batch, 3000), d_sae, k).to(device)
    tracker.update(indices)

    def step() -> None:
        out = sae.training_step(x, StepContext(0))
        reconstruction_loss("fvu", x, out.x_hat).backward()

    def penalise(estimator: str) -> Callable[[], None]:
        loss = OrthogonalityLoss(estimator=estimator)
        return lambda: loss(sae.W_dec, tracker).backward()

    rows: dict[str, Callable[[], object]] = {
        "plain TopK step": step,
        f"tracker.update, {batch} tokens": lambda: tracker.update(indices[:batch]),
        "weight sum of a window": lambda: tracker.weight_matrix().sum(),
        "penalty, sampled": penalise("sampled"),
        "penalty, exact": penalise("exact"),
    }
    return {name: median_ms(work, repeats, device) for name, work in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--d-in", type=int, default=128)
    parser.add_argument("--d-sae", type=int, default=2048)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = torch.device(args.device)
    rows = measure(args.d_in, args.d_sae, args.k, args.batch, device, args.repeats)
    shape = f"d {args.d_in}, F {args.d_sae}, k {args.k}, batch {args.batch}, {args.device}"
    table = Table("", "ms", "of a plain step", title=shape, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, f"{value:.1f}", f"{value / rows['plain TopK step']:.2f}")
    Console().print(table)
    if args.out:
        options = {name: value for name, value in vars(args).items() if name != "out"}
        args.out.write_text(json.dumps({"options": options, "ms": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
