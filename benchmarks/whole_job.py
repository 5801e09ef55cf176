"""Whole jobs beside SAELens, from text to a saved SAE: `python benchmarks/whole_job.py`.

`launch.py` beside SAELens's LanguageModelSAETrainingRunner; with `--saes 4` one sweep over `sae.k`
beside its MultiSAETrainingRunner, both of which run the language model once for the four. Every job
has a process of its own, one after the other, after a short one that compiles and fills caches.

Equal: the language model (an untrained Pythia in a local folder, run by transformers up to the hook
on both sides), its tokenizer, the text and its order, context and BOS, sequences in a forward pass,
tokens, batch, rows of the shuffle buffer, width and k, float32, the rate with its warm-up and
decay, Adam's betas and eps, clipping at 1, threads; activations are taken as they are (no
normalisation, no tokens left out) and never read in another thread. No evaluation, no checkpoints
or logging between steps; no latent ever counts as dead.

Each package's own: loss, initial weights, treatment of the decoder, how threads wait, how the
buffer mixes (ours is full until it holds what is still to be trained on, so that no more is read;
SAELens reads half of one more), and what is written at the end (ours a checkpoint, SAELens how
often latents fire).

Seconds are from the start of the process until the (last) SAE is on disk, and of those from the
first run of the language model on. Memory is the largest resident size of the process and its
children. Explained variance, 1 - Σ|x - x̂|² / Σ|x - mean|², is computed here from the saved files
and from activations of text that neither has read.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from common import MIB, device_name, most_resident
from peers import versions
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

from temporal_sae.assets import TINY_MODEL
from temporal_sae.data import StdlibText
from temporal_sae.eval.reconstruction import ReconstructionSums
from temporal_sae.latents import Latents

CHILD = Path(__file__).with_name("whole_job_child.py")
SUBJECTS: dict[str, dict[str, Any]] = {
    "ours": {"package": "ours", "method": False},
    "ours+method": {"package": "ours", "method": True},
    "SAELens": {"package": "SAELens", "topk": {}},
    "SAELens, sparse": {  # on a CPU the first of these cannot be trained without the second
        "package": "SAELens",
        "topk": {"use_sparse_activations": True, "rescale_acts_by_decoder_norm": False},
    },
}
SHARES_OF_K = (1, 0.5, 0.75, 1.5)  # of several SAEs, which differ in nothing else
DOCUMENT = 20_000  # characters at most
HELD_OUT = 16_384  # tokens
POLL = 0.02  # seconds between two looks at the memory
HOW_THREADS_WAIT = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # importing temporal_sae sets them
MEASURED = ("seconds", "training_seconds", "peak_mib", "explained_variance")


@dataclass(frozen=True)
class Shape:
    """A language model, how far it is run, and the SAE on it.

    Attributes:
        layer: whose output the SAE is trained on; the layers behind it are not run.
        layers: of the whole model.
    """

    d_in: int
    layer: int
    layers: int
    heads: int
    d_sae: int
    k: int
    tokens: int
    batch: int = 2048
    context: int = 128
    sequences: int = 32  # in one forward pass
    buffer: int = 8192
    lr: float = 1e-3
    warmup: int = 5
    decay: float = 0.2
    seed: int = 0


SHAPES = {
    "sae": Shape(d_in=256, layer=1, layers=3, heads=4, d_sae=16_384, k=32, tokens=32_768),
    "lm": Shape(d_in=512, layer=8, layers=10, heads=8, d_sae=2048, k=32, tokens=98_304),
    "tiny": Shape(32, 0, 2, 2, 128, 8, tokens=1024, batch=128, context=32, buffer=512),
}


def make_model(shape: Shape, folder: Path) -> None:
    """Write an untrained Pythia with the bundled tokenizer."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.d_in,
        intermediate_size=4 * shape.d_in,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=shape.context,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_text(tokens: int, model: Path, file: Path) -> None:
    """Write documents of the standard library, at least so many tokens, one JSON object a line."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    with file.open("w") as lines:
        for _, document in StdlibText(max_document_chars=DOCUMENT).documents("train", 0, 0):
            lines.write(json.dumps({"text": document}) + "\n")
            tokens -= len(tokenizer.encode(document))
            if tokens <= 0:
                return
    raise SystemExit("the standard library has not so much text: take fewer --tokens")


@torch.no_grad()
def held_out(shape: Shape, folder: Path, tokens: int) -> Tensor:
    """Return activations of text that is not trained on: [tokens, d_in]."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    documents = StdlibText(max_document_chars=DOCUMENT).documents("held_out", 0, 0)
    ids: list[int] = []
    for _, document in documents:
        ids += tokenizer.encode(document)
        if len(ids) >= tokens:
            break
    rows = torch.tensor(ids[: len(ids) // shape.context * shape.context]).view(-1, shape.context)
    rows[:, 0] = tokenizer.bos_token_id
    found = [
        model(part, output_hidden_states=True).hidden_states[shape.layer + 1].flatten(0, 1)
        for part in rows.split(shape.sequences)
    ]
    return torch.cat(found)[:tokens]


@torch.no_grad()
def explained_variance(folder: Path, x: Tensor) -> float:
    """Of the TopK SAE in a folder, from its weights and its config alone.

    Raises:
        ValueError: it is of another kind, or does not take activations as they are.
    """
    sae = load_file(folder / "sae_weights.safetensors")
    config = json.loads((folder / "cfg.json").read_text())
    if (config["architecture"], config["normalize_activations"]) != ("topk", "none"):
        raise ValueError(f"{folder}: {config}")
    sums = ReconstructionSums(x.shape[1], x.device)
    for batch in x.split(2048):
        centered = batch - sae["b_dec"] if config["apply_b_dec_to_input"] else batch
        scores = centered @ sae["W_enc"] + sae["b_enc"]
        values, indices = scores.topk(config["k"])
        acts = torch.zeros_like(scores).scatter(1, indices, values.relu())
        x_hat = acts @ sae["W_dec"] + sae["b_dec"]
        sums.add(batch, Latents(values.relu(), indices), x_hat)
    return sums.metrics()["reconstruction_quality"]["explained_variance"]


def run(job: dict[str, Any], threads: int) -> tuple[dict[str, float], list[Path]]:
    """Run a job in a process of its own; returns what it took, and the folders of its SAEs."""
    folder = Path(job["folder"])
    folder.mkdir(parents=True)
    env = {name: value for name, value in os.environ.items() if name not in HOW_THREADS_WAIT}
    env |= {"OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
    with (folder / "log.txt").open("w") as log:
        began, peak = time.time(), 0
        command = [sys.executable, str(CHILD), json.dumps(job)]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env)
        while process.poll() is None:
            peak = max(peak, most_resident(process.pid))
            time.sleep(POLL)
        ended = time.time()
    weights = sorted(folder.glob("saved/**/sae_weights.safetensors"))
    if process.returncode or len(weights) != len(job["ks"]):
        raise SystemExit(f"{job['package']} failed:\n{(folder / 'log.txt').read_text()}")
    saved = max(path.stat().st_mtime for path in weights)
    first = (folder / "first_forward").stat().st_mtime
    spent = {
        "seconds": saved - began,
        "training_seconds": saved - first,
        "seconds_to_the_end": ended - began,
        "peak_mib": peak / MIB,
    }
    return spent, [path.parent for path in weights]


def compare(args: argparse.Namespace, name: str, n_saes: int, place: Path) -> list[dict[str, Any]]:
    """Run every subject on one shape, in turn, as often as asked for."""
    shape = SHAPES[name]
    shape = replace(shape, tokens=(args.tokens or shape.tokens) // shape.batch * shape.batch)
    short = replace(shape, tokens=max(4096, 2 * shape.batch), buffer=2 * shape.batch, warmup=0)
    model, text = place / "model", place / "text" / "text.jsonl"
    if not text.exists():
        make_model(shape, model)
        text.parent.mkdir()
        make_text(2 * (shape.tokens + shape.buffer), model, text)  # nobody begins a second pass
    x = held_out(shape, model, HELD_OUT)
    shared = {"model": str(model), "text": str(text)}
    shared |= {"ks": [round(shape.k * share) for share in SHARES_OF_K[:n_saes]]}
    results = []
    for number in range(args.rounds + 1):  # the first compiles and fills caches
        for subject in args.subjects if number % 2 else args.subjects[::-1]:
            job = asdict(shape if number else short) | SUBJECTS[subject] | shared
            job |= {"folder": str(place / f"{n_saes} {subject} {number}")}
            spent, saes = run(job, args.threads)
            if number:
                labels = {"shape": name, "tokens": shape.tokens, "saes": n_saes, "subject": subject}
                quality = statistics.fmean(explained_variance(sae, x) for sae in saes)
                results.append(labels | spent | {"explained_variance": quality})
                print(results[-1], file=sys.stderr)
    return results


def medians(results: list[dict[str, Any]]) -> dict[tuple[str, int, str], dict[str, float]]:
    """Of all rounds, by shape, number of SAEs and subject."""
    rows: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for r in results:
        rows.setdefault((r["shape"], r["saes"], r["subject"]), []).append(r)
    return {
        key: {name: statistics.median(r[name] for r in same) for name in MEASURED}
        for key, same in rows.items()
    }


def table_of(results: list[dict[str, Any]], title: str) -> Table:
    """One line a subject; in brackets, how many times ours it is."""
    names = ("shape", "SAEs", "", "s", "s of training", "MiB", "explained variance")
    table = Table(*names, title=title, title_justify="left")
    rows = medians(results)
    for (shape, n_saes, subject), row in rows.items():
        ours = rows.get((shape, n_saes, "ours"), row)
        cells = [
            f"{row[name]:,.1f} ({row[name] / ours[name]:.2f})"
            for name in ("seconds", "training_seconds", "peak_mib")
        ]
        table.add_row(shape, str(n_saes), subject, *cells, f"{row['explained_variance']:.4f}")
    return table


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=("sae", "lm"))
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=("ours", "SAELens"))
    parser.add_argument("--saes", type=int, nargs="+", choices=(1, 2, 3, 4), default=(1, 4))
    parser.add_argument("--tokens", type=int, help="instead of each shape's own")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="also save the figures as JSON")
    return parser.parse_args()


def main() -> None:
    args = parse()
    results = []
    for name in args.shapes:
        with tempfile.TemporaryDirectory() as folder:
            for n_saes in args.saes:
                results += compare(args, name, n_saes, Path(folder))
    torch.set_num_threads(args.threads)
    name = device_name(torch.device("cpu"))
    Console(width=120).print(table_of(results, f"{name}, float32"))
    if args.out:
        saved = {
            "device": name,
            "versions": versions() | {p: version(p) for p in ("transformers", "datasets")},
            "options": {
                "shapes": {name: asdict(SHAPES[name]) for name in args.shapes},
                "shares_of_k": SHARES_OF_K,
                "held_out_tokens": HELD_OUT,
                "threads": args.threads,
                "rounds": args.rounds,
                "tokens": args.tokens,
            },
            "results": results,
        }
        args.out.write_text(json.dumps(saved, indent=1) + "\n")


if __name__ == "__main__":
    main()
