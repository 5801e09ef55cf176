"""Quality beside the peers on the bundled model: `python benchmarks/parity.py`.

The activations of the bundled model are harvested once, shuffled and scaled to E|x|² = 1. Then
every package trains a TopK SAE of the same size on the same tokens in the same order, from three
seeds, with the same rate, warm-up, decay, Adam's betas and clipping. Reconstruction loss, weight of
AuxK, bias at the start and treatment of the decoder are each package's own. What is compared comes
from held-out text: explained variance 1 - Σ|x - x̂|² / Σ|x - mean|², L0, and the share of latents
that never fire. Every training runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see step.py

import torch
from common import device_name, run_apart
from peers import SUBJECTS, versions
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from settings import Reconstruct, Settings, Tokens, Unsupported
from torch import Tensor

from temporal_sae.activations import Harvest, LanguageModel
from temporal_sae.data import StdlibText
from temporal_sae.eval.latent_use import LatentUse
from temporal_sae.eval.reconstruction import ReconstructionSums

DEFAULT = ("ours", "SAELens", "dictionary_learning")
HOOK = "blocks.3.hook_resid_post"
DATA_SEED = 42
COLUMNS = ("explained_variance", "l0", "dead_share", "tokens_per_second")


def harvest(n_tokens: int, held_out: int, batch: int, device: str) -> dict[str, Tensor]:
    """Activations as training sees them, and those of held-out text at the same scale."""
    model = LanguageModel("tiny", HOOK, device=device)
    source = Harvest(model=model, text=StdlibText())
    source.open()
    stream = source.stream(batch, DATA_SEED)
    train = torch.cat([next(stream).x.cpu() for _ in range(n_tokens // batch)])
    parts: list[Tensor] = []
    for rows in source.held_out(held_out, source.lm_batch_size, DATA_SEED):
        parts.append(rows.scaled(stream.scale).x.cpu())
        if sum(map(len, parts)) >= held_out:
            break
    return {"train": train, "held_out": torch.cat(parts)[:held_out]}


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Train one SAE and look at it, in this process."""
    settings = Settings(**job["settings"])
    data = {name: x.to(settings.device) for name, x in load_file(job["data"]).items()}
    tokens = Tokens(data["train"], settings.batch)
    try:
        reconstruct = SUBJECTS[job["subject"]](settings, tokens)
    except ImportError as error:
        return {"skipped": f"not importable: {error.name}"}
    except Unsupported as error:
        return {"skipped": str(error)}
    seconds = tokens.times[-1] - tokens.times[1]  # the first step has set everything up
    speed = settings.batch * (len(tokens.times) - 2) / seconds
    quality = evaluate(reconstruct, data["held_out"], settings.d_sae)
    return {**quality, "steps": len(tokens.times), "tokens_per_second": speed}


@torch.no_grad()
def evaluate(reconstruct: Reconstruct, x: Tensor, d_sae: int) -> dict[str, float]:
    """Of all tokens at once: sums in float64 over batches."""
    sums = ReconstructionSums(x.shape[1], x.device)
    use = LatentUse(SimpleNamespace(d_sae=d_sae), x.device)
    for batch in x.split(4096):
        latents, x_hat = reconstruct(batch)
        sums.add(batch, latents, x_hat)
        use.add(batch, latents, x_hat)
    metrics = sums.metrics()
    return {
        "explained_variance": metrics["reconstruction_quality"]["explained_variance"],
        "l0": metrics["sparsity"]["l0"],
        "dead_share": use.compute()["dead_share"],
    }


def run_all(args: argparse.Namespace, data: Path) -> list[dict[str, Any]]:
    """Every subject from every seed; a subject that cannot run is tried once."""
    results = []
    for subject in args.subjects:
        for seed in args.seeds:
            settings = replace(settings_of(args), seed=seed)
            job = {"subject": subject, "settings": asdict(settings), "data": str(data)}
            row = {"subject": subject, "seed": seed, **run_apart(__file__, job)}
            results.append(row)
            print(row, file=sys.stderr)
            if "skipped" in row:
                break
    return results


def settings_of(args: argparse.Namespace) -> Settings:
    ours = {"precision": args.precision, "step": args.step}
    return Settings(
        d_in=args.d_in,
        d_sae=args.d_sae,
        k=args.k,
        batch=args.batch,
        steps=args.tokens // args.batch,
        lr=args.lr,
        warmup=args.warmup,
        dead_after=args.dead_after,
        device=args.device,
        precision=args.precision or "float32",
        ours={name: value for name, value in ours.items() if value is not None},
    )


def summarise(results: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean and standard deviation over the seeds, or why a subject was left out."""
    summary: dict[str, dict[str, Any]] = {}
    for subject in dict.fromkeys(r["subject"] for r in results):
        rows = [r for r in results if r["subject"] == subject]
        skipped = [r["skipped"] for r in rows if "skipped" in r]
        if skipped:
            summary[subject] = {"skipped": skipped[0]}
            continue
        values = {name: [r[name] for r in rows] for name in COLUMNS}
        summary[subject] = {
            name: [statistics.fmean(v), statistics.stdev(v) if len(v) > 1 else None]
            for name, v in values.items()
        }
    return summary


def table_of(summary: dict[str, dict[str, Any]], title: str) -> Table:
    """One line a subject."""
    names = ("", "explained variance", "L0", "dead", "tokens/s")
    table = Table(*names, title=title, title_justify="left")
    formats = ("{:.4f}", "{:.2f}", "{:.2%}", "{:,.0f}")
    for subject, row in summary.items():
        if "skipped" in row:
            table.add_row(subject, row["skipped"])
            continue
        cells = [
            " ± ".join(form.format(value) for value in row[name] if value is not None)
            for name, form in zip(COLUMNS, formats, strict=True)
        ]
        table.add_row(subject, *cells)
    return table


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tokens", type=int, default=500_000)
    parser.add_argument("--held-out", type=int, default=100_000, help="tokens to evaluate on")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=DEFAULT)
    parser.add_argument("--d-sae", type=int, default=2048)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--warmup", type=int, default=20, help="steps")
    parser.add_argument(
        "--dead-after", type=int, help="tokens; left out: each package's own, too many to matter"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="default: float32")
    parser.add_argument("--step", help="option of our Trainer")
    parser.add_argument("--out", type=Path, help="also save the figures as JSON")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.job:
        print(json.dumps(measure(args.job)))
        return
    name = device_name(torch.device(args.device))
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "activations.safetensors"
        harvested = harvest(args.tokens, args.held_out, args.batch, args.device)
        args.d_in = harvested["train"].shape[1]
        held_out = len(harvested["held_out"])
        save_file(harvested, data)
        del harvested
        results = run_all(args, data)
    summary = summarise(results)
    tokens = args.tokens // args.batch * args.batch
    title = f"{tokens:,} tokens, F {args.d_sae}, k {args.k}, lr {args.lr:g}, {name}"
    Console(width=110).print(table_of(summary, title))
    if args.out:
        saved = {
            "device": name,
            "versions": versions(),
            "options": asdict(settings_of(args)),
            "held_out_tokens": held_out,
            "summary": summary,
            "results": results,
        }
        args.out.write_text(json.dumps(saved, indent=1) + "\n")


if __name__ == "__main__":
    main()
