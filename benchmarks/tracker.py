"""Cost of the tracker and the penalty beside a plain TopK step: `python benchmarks/tracker.py`.

For every shape and window: milliseconds a batch for the tracker's update, for looking up the
weights of the sampled pairs, for the penalty with and without its gradient, and for one look at the
stability of pairs (a logging step's); and the peak memory of update and penalty beyond the decoder
and the gradient it has anyway. Measured for every storage, alone and with exact totals
(`tracker.totals_from`), for the dense way of the reference transcript, and for a plain TopK
training step of the same shape. Every measurement runs in a process of its own, one after the
other. `--zipf` runs the largest shape for two million tokens, and reports the memory and what
pruning has cost.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from common import MIB, PeakMemory, device_name, median_ms, zipf_latents
from rich.console import Console
from rich.table import Table
from transcript_dense import DenseTranscript

from temporal_sae.loss import OrthogonalityLoss, reconstruction_loss
from temporal_sae.machine import free_memory
from temporal_sae.sae import StepContext, TopKSAE
from temporal_sae.tracker import CoActivationTracker
from temporal_sae.tracker.stability import StabilityMonitor, co_activation, pair_stability
from temporal_sae.training.optimizer import SAEAdam

SHAPES = ((4608, 160), (18432, 320), (65536, 64), (1048576, 32))
STORAGES = ("reference", "dense", "sparse")
TOTALS = " + totals"
WITH_TOTALS = tuple(f"{storage}{TOTALS}" for storage in ("dense", "sparse"))
SUBJECTS = ("plain step", "transcript", *STORAGES, *WITH_TOTALS)
WITHOUT_WINDOW = ("plain step", "transcript")  # the transcript's closes at every batch
COLUMNS = ("update", "weights", "penalty", "penalty and gradient", "stability")


def needed_bytes(subject: str, d_in: int, d_sae: int, batch: int) -> int:
    """Roughly what a subject takes, so that what cannot fit is not tried."""
    decoder = 4 * d_in * d_sae
    matrix = 4 * d_sae**2
    extra = {
        "plain step": 7 * decoder + 5 * 4 * batch * d_sae,
        "transcript": 11 * matrix,
        "reference": 8 * matrix,
        "dense": matrix // 2,
        "sparse": 2**30,
        f"dense{TOTALS}": matrix // 2 * 5,
        f"sparse{TOTALS}": 2 * 2**30,
    }
    return decoder + extra[subject]


def measure_step(args: argparse.Namespace, d_sae: int, k: int) -> dict[str, float]:
    """A training step without tracker and penalty: forward, backward, project, Adam, normalise."""
    device = torch.device(args.device)
    meter = PeakMemory(device)
    sae = TopKSAE(args.d_in, d_sae, k).to(device)
    optimizer = SAEAdam(sae)
    x = torch.randn(args.batch, args.d_in, device=device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bfloat16"):
            out = sae.training_step(x, StepContext(0))
        reconstruction_loss("fvu", x, out.x_hat).backward()
        optimizer.step(lr=1e-5)

    ms = median_ms(step, args.repeats, device)
    return {"step": ms, "peak_mib": meter.bytes() / MIB}


def measure_transcript(
    args: argparse.Namespace, d_sae: int, k: int, window: int
) -> dict[str, float]:
    """The dense way, on activations, as the reference run had it."""
    device = torch.device(args.device)
    indices = zipf_latents(args.batch, d_sae, k).to(device)
    values = torch.rand(indices.shape, device=device).mul_(indices >= 0).requires_grad_()
    warm_up(args, "transcript", k)
    meter = PeakMemory(device)
    tracker = DenseTranscript(d_sae, window, device)
    times = {
        "update": median_ms(lambda: tracker.update(indices), args.repeats, device),
        "penalty": median_ms(lambda: tracker.penalty(indices, values), args.repeats, device),
    }

    def both() -> None:
        values.grad = None
        tracker.penalty(indices, values).backward()

    times["penalty and gradient"] = median_ms(both, args.repeats, device)
    return {**times, "peak_mib": meter.bytes() / MIB}


def measure_storage(
    args: argparse.Namespace, subject: str, d_sae: int, k: int, window: int
) -> dict[str, float]:
    """Tracker and default penalty; the decoder's gradient is there, as in a training step."""
    storage = subject.removesuffix(TOTALS)
    totals_from = None if storage == subject else 0
    device = torch.device(args.device)
    batches = zipf_latents(4 * args.batch, d_sae, k).to(device).split(args.batch)
    W_dec = torch.randn(d_sae, args.d_in, device=device)
    W_dec.grad = torch.ones_like(W_dec)  # not zeros, which takes no memory until written
    loss = OrthogonalityLoss(**penalty_options(args))
    warm_up(args, storage, k, totals_from)
    meter = PeakMemory(device)
    tracker = CoActivationTracker(
        d_sae, window, storage=storage, device=device, totals_from=totals_from
    )
    turn = iter(range(10**9))
    times = {}

    def update() -> None:
        tracker.update(batches[next(turn) % len(batches)])

    times["update"] = median_ms(update, max(args.repeats, 4), device)
    with torch.no_grad():
        times["penalty"] = median_ms(lambda: loss(W_dec, tracker), args.repeats, device)
    times["penalty and gradient"] = median_ms(
        lambda: loss.add_gradient(W_dec, tracker, W_dec.grad), args.repeats, device
    )
    sizes = {"peak_mib": meter.bytes() / MIB, "state_mib": tracker.nbytes() / MIB}
    tokens = torch.randperm(window, device=device)[: loss.sample_size(batches[0])]
    times["weights"] = median_ms(lambda: tracker.relative_weights(tokens), args.repeats, device)
    times["stability"] = median_ms(
        lambda: pair_stability(tracker) | co_activation(tracker, 200), args.repeats, device
    )
    return {**times, **sizes}


def warm_up(args: argparse.Namespace, storage: str, k: int, totals_from: int | None = None) -> None:
    """Compile and load everything with few latents, and multiply matrices of the real sizes.

    What a compiler takes, and the buffers of the matrix library, a training process has anyway.
    """
    n = 2 * k
    latents = zipf_latents(300, n, k // 2).to(args.device)
    W_dec = torch.randn(n, args.d_in, device=args.device)
    W_dec.T @ W_dec
    if storage == "transcript":
        tracker = DenseTranscript(n, 100, torch.device(args.device))
        tracker.update(latents)
        values = torch.rand(latents.shape, device=args.device).requires_grad_()
        tracker.penalty(latents, values).backward()
        return
    tracker = CoActivationTracker(
        n, 100, storage=storage, device=args.device, totals_from=totals_from
    )
    tracker.update(latents)
    loss = OrthogonalityLoss(weighting="instability", sample_tokens=8, estimator="sampled")
    loss.add_gradient(W_dec, tracker, torch.zeros_like(W_dec))
    StabilityMonitor().observe(tracker, W_dec)


def penalty_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return those of weights that follow change, which cost more than co-activation alone."""
    options = {"weighting": "instability"}
    return (
        options if args.sample_tokens is None else options | {"sample_tokens": args.sample_tokens}
    )


def measure_zipf(args: argparse.Namespace) -> dict[str, float]:
    """Two million tokens of the largest shape, and the error of pruning on pairs followed apart."""
    d_sae, k = SHAPES[-1]
    window, device = 1000, torch.device(args.device)
    meter = PeakMemory(device)
    tracker = CoActivationTracker(
        d_sae, window, storage="sparse", device=device, prune_below=args.prune_below
    )
    i, j = followed_pairs(d_sae)
    exact = torch.zeros(len(i))
    spent = 0.0
    for n in range(args.zipf_tokens // window):
        latents = zipf_latents(window, d_sae, k, seed=n)
        start = time.perf_counter()
        tracker.update(latents)
        spent += time.perf_counter() - start
        counts = (tracker.rate(i, j) * window).round()
        alpha = (counts / 1000).clamp(max=0.1) if n else (counts > 0).float()
        exact = exact + alpha * (counts / window - exact)
        if n % 100 == 99:
            print(f"{n + 1} windows, {tracker.nbytes() / MIB:,.0f} MiB", file=sys.stderr)
    missing = exact - tracker.average(i, j)
    return {
        "tokens": args.zipf_tokens,
        "prune_below": args.prune_below,
        "ms_per_window": spent * 1e3 / (args.zipf_tokens // window),
        "state_mib": tracker.nbytes() / MIB,
        "peak_mib": meter.bytes() / MIB,
        "error_bound": tracker.error_bound,
        "largest_error": float(missing.max()),
        "mean_error_share": float(missing.sum() / exact.sum()),
        "pairs_followed": len(i),
        "pairs_with_an_average": int((exact > 0).sum()),
    }


def followed_pairs(d_sae: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of all popularities: both ranks log-uniform."""
    generator = torch.Generator().manual_seed(1)
    ranks = (torch.rand(2, 200_000, generator=generator) * torch.tensor(d_sae).log()).exp().long()
    ranks = ranks.clamp(max=d_sae - 1).sort(0).values
    keys = (ranks[0] * d_sae + ranks[1])[ranks[0] < ranks[1]].unique()
    return keys // d_sae, keys % d_sae


def run_apart(args: argparse.Namespace, *job: Any) -> dict[str, float]:
    """One measurement in a process of its own."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in kept(args).items()]
    command = [sys.executable, __file__, *options, "--job", json.dumps(job)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return {"failed": done.returncode}
    return json.loads(done.stdout.splitlines()[-1])


def kept(args: argparse.Namespace) -> dict[str, Any]:
    names = ("d_in", "batch", "repeats", "device", "precision", "sample_tokens")
    names += ("prune_below", "zipf_tokens")
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def measure(args: argparse.Namespace, job: list[Any]) -> dict[str, float]:
    """One measurement, in this process."""
    subject, *rest = job
    if subject == "zipf":
        return measure_zipf(args)
    if subject == "plain step":
        return measure_step(args, *rest[:2])
    if subject == "transcript":
        return measure_transcript(args, *rest)
    return measure_storage(args, subject, *rest)


def run_all(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every subject at every shape and window."""
    results = []
    free = free_memory(torch.device(args.device))
    for d_sae, k in args.shapes:
        for window in args.windows:
            for subject in args.subjects:
                if subject in WITHOUT_WINDOW and window != args.windows[0]:
                    continue
                row = {"d_sae": d_sae, "k": k, "window": window, "subject": subject}
                needed = needed_bytes(subject, args.d_in, d_sae, args.batch)
                if free is not None and needed > 0.95 * free.n_bytes:
                    row["skipped"] = f"needs {needed / 2**30:.0f} GiB"
                else:
                    row |= run_apart(args, subject, d_sae, k, window)
                results.append(row)
                print(row, file=sys.stderr)
    return results


def table_of(results: list[dict[str, Any]], title: str) -> Table:
    """One line a measurement; `method` is update, and penalty with its gradient."""
    names = ("F, k", "W", "", *(f"{c} ms" for c in COLUMNS), "method ms", "of a step", "peak MiB")
    table = Table(*names, title=title, title_justify="left")
    steps = {(r["d_sae"], r["k"]): r["step"] for r in results if "step" in r}
    for r in results:
        shape = (r["d_sae"], r["k"])
        if "skipped" in r or "failed" in r:
            note = r.get("skipped") or f"failed ({r['failed']})"
            table.add_row(str(shape), str(r["window"]), r["subject"], note)
            continue
        times = [f"{r[c]:,.1f}" if c in r else "" for c in COLUMNS]
        total = r.get("step") or r["update"] + r["penalty and gradient"]
        share = f"{total / steps[shape]:.1%}" if shape in steps and "step" not in r else ""
        window = "" if "step" in r else str(r["window"])
        table.add_row(
            str(shape),
            window,
            r["subject"],
            *times,
            f"{total:,.1f}",
            share,
            f"{r['peak_mib']:,.0f}",
        )
    return table


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--d-in", type=int, default=2304)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--shapes", type=json.loads, default=SHAPES, help="[[F, k], …]")
    parser.add_argument("--windows", type=json.loads, default=(1000, 2000))
    parser.add_argument("--subjects", type=json.loads, default=SUBJECTS)
    parser.add_argument("--sample-tokens", type=int, help="of the penalty; its default if left out")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--zipf", action="store_true", help="only the long run of the largest shape"
    )
    parser.add_argument("--zipf-tokens", type=int, default=2_000_000)
    parser.add_argument("--prune-below", type=float, default=1.5e-6)
    parser.add_argument("--out", type=Path, help="also save the figures as JSON")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.job:
        print(json.dumps(measure(args, args.job)))
        return
    name = device_name(torch.device(args.device))
    if args.zipf:
        results: Any = run_apart(args, "zipf")
        Console().print(results)
    else:
        results = run_all(args)
        title = f"d {args.d_in}, batch {args.batch}, {name}"
        Console(width=140).print(table_of(results, title))
    if args.out:
        saved = {"device": name, "torch": torch.__version__, "options": kept(args)}
        args.out.write_text(json.dumps({**saved, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
