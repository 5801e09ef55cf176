"""The cost of activations, as ratios within one run: `python benchmarks/harvest.py`.

Harvest beside the bare forward pass: a copy of the language model without the layers behind the
hook reads the same tokens as `HarvestReader`, which also reads and tokenizes text, takes the
activations out and notes places; and as the training stream, which mixes them. One batch of the
first, one of the second, one of the third, over and over; the medians of CPU time are compared.

Reading ahead: a TopK SAE, as wide as makes its step take as long as its share of harvesting, is
trained on one torch thread with and without `activations.prefetch`, in turn; and the default run's
step on the default's threads.

Sources without a language model: rows of a file and of synthetic worlds beside the training step
that uses them up.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

# As `launch.py` has it: threads that spin while they wait take the cores from those that work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from common import device_name
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from temporal_sae.activations import (
    ActivationBatch,
    ActivationFiles,
    ActivationSource,
    ActivationStream,
    Harvest,
    LanguageModel,
    SyntheticActivations,
    WorldOptions,
)
from temporal_sae.activations.rows import TOKEN
from temporal_sae.data import StdlibText
from temporal_sae.experiment.determinism import deterministic_on_cpu
from temporal_sae.loss import OrthogonalityLoss
from temporal_sae.sae import TopKSAE
from temporal_sae.tracker import CoActivationTracker, NoTracker
from temporal_sae.training import Parts, SharedStream, Trainer

BATCH = 1024  # rows of a step, as in the default run
D_SAE, K = 2048, 32  # likewise
UNTIMED = 8  # steps, in which buffers are filled and kernels compiled
WORLDS = {  # shape of a synthetic world: (d_in, features, l0), and the SAE that is trained on it
    "default world": ((64, 128, 8.0), D_SAE, K),
    "16384 features": ((768, 16384, 32.0), 16384, 64),
}
SEED = 0


def harvest(model: LanguageModel, prefetch: Any = False) -> Harvest:
    source = Harvest(model=model, text=StdlibText(), prefetch=prefetch)
    source.open()
    return source


def bare(model: LanguageModel) -> Callable[[Tensor], Tensor]:
    """The forward pass up to the hook and nothing else: embedding and layers of a copy."""
    assert model.layer is not None and model.hook_name.endswith("hook_resid_post")
    inner = copy.deepcopy(model.model.model)
    inner.layers = inner.layers[: model.layer + 1]
    inner.config.num_hidden_layers = len(inner.layers)
    inner.norm = nn.Identity()
    inner.requires_grad_(False)

    @torch.no_grad()
    def forward(tokens: Tensor) -> Tensor:
        return inner(input_ids=tokens, use_cache=False).last_hidden_state

    return forward


def seconds_of(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    work()
    return clock() - start


def beside_the_bare_pass(model: LanguageModel, repeats: int) -> dict[str, Any]:
    """Tokens a CPU second of the bare pass, of the reader and of the stream, which alternate."""
    source, forward = harvest(model), bare(model)
    sequences, reader = source.sequences("train", SEED), source.reader(SEED)
    # One chunk fills what a draw of so many leaves: all its tokens but BOS.
    stream = source.stream(source.lm_batch_size * (source.context_size - 1), SEED)
    times: dict[str, list[float]] = {"bare": [], "reader": [], "stream": []}
    cpu = time.process_time  # of all threads: other programs have little influence on that
    for n in range(repeats + 1):
        read = [sequences.read() for _ in range(source.lm_batch_size)]
        tokens = torch.stack(read)[..., TOKEN].long()
        if not n and float((forward(tokens) - model.activations(tokens)).abs().max()) > 1e-4:
            raise RuntimeError("the bare pass does not give the activations at the hook")
        times["bare"].append(seconds_of(partial(forward, tokens), cpu))
        times["reader"].append(seconds_of(reader.read, cpu))
        times["stream"].append(seconds_of(partial(next, stream), cpu))
    spent = {name: statistics.median(found[1:]) for name, found in times.items()}
    return {
        "tokens_per_cpu_second": {name: source.rows_at_once / s for name, s in spent.items()},
        "reader_of_bare": spent["bare"] / spent["reader"],
        "stream_of_bare": spent["bare"] / spent["stream"],
    }


class Timed(Iterator[ActivationBatch]):
    """A stream that notes when each batch is asked for.

    Args:
        stream: gives the batches; its buffer is filled here.
        again: hand out the first batch over and over.
    """

    def __init__(self, stream: ActivationStream, again: bool = False) -> None:
        self.stream, self.times = stream, []
        self.sample, self.metrics = stream.sample, stream.metrics
        self.state_dict, self.load_state_dict = stream.state_dict, stream.load_state_dict
        self._again = next(stream) if again else None

    def __next__(self) -> ActivationBatch:
        self.times.append(time.perf_counter())
        return self._again or next(self.stream)

    def seconds_a_step(self) -> float:
        """The mean, since a chunk that is read serves several steps."""
        return (self.times[-1] - self.times[UNTIMED]) / (len(self.times) - 1 - UNTIMED)


def seconds_a_step(
    source: ActivationSource, steps: int, d_sae: int, k: int = K, method: bool = False, **how: Any
) -> float:
    """Seconds of a training step, with what it reads; `again`: on the same batch each time."""
    torch.manual_seed(SEED)
    stream = source.stream(BATCH, SEED)
    timed = Timed(stream, **how)
    parts = Parts(
        sae=TopKSAE(source.d_in, d_sae, k),
        batches=timed,
        tracker=CoActivationTracker(d_sae) if method else NoTracker(d_sae),
        penalty=OrthogonalityLoss() if method else OrthogonalityLoss(0.0),
    )
    n_steps = UNTIMED + steps + 1
    with deterministic_on_cpu(source.device), SharedStream(stream).released():
        Trainer(num_tokens=n_steps * BATCH, batch_size=BATCH, log_every=n_steps).fit(parts)
    return timed.seconds_a_step()


def as_wide_as_takes(seconds: float, source: ActivationSource) -> int:
    """Latents of an SAE whose step, on a batch that is there, takes about so long."""
    d_sae = D_SAE
    for _ in range(4):
        found = seconds_a_step(source, 6, d_sae, again=True)
        if abs(found / seconds - 1) < 0.1:
            break
        d_sae = max(64, round(d_sae * min(8.0, max(0.125, seconds / found)) / 64) * 64)
    return d_sae


def reading_ahead(model: LanguageModel, steps: int, rounds: int) -> dict[str, Any]:
    """Return the gain in speed of training by prefetch, on one thread each."""
    usual = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        reader = harvest(model).reader(SEED)
        reader.read()
        a_read = statistics.median(seconds_of(reader.read) for _ in range(4))
        of_a_step = a_read * BATCH / len(reader.read())
        d_sae = as_wide_as_takes(of_a_step, harvest(model))
        equal = on_and_off(model, steps, rounds, d_sae)
    finally:
        torch.set_num_threads(usual)
    default = on_and_off(model, steps, rounds, D_SAE, method=True)
    return {
        "one thread each": {"d_sae": d_sae, "harvest_seconds": of_a_step, **equal},
        f"default run, {usual} threads": {"d_sae": D_SAE, **default},
    }


def on_and_off(model: LanguageModel, steps: int, rounds: int, *args: Any, **kw: Any) -> Any:
    """Seconds of a step without and with prefetch, in turn: the fastest, since others only slow."""
    found = [
        [seconds_a_step(harvest(model, ahead), steps, *args, **kw) for ahead in (False, True)]
        for _ in range(rounds)
    ]
    without, ahead = map(min, zip(*found, strict=True))
    return {"without": without, "with": ahead, "times_as_fast": without / ahead}


def without_a_model(steps: int) -> dict[str, Any]:
    """Seconds in which rows for a step are read, and those of the step, by source."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        rows = np.random.default_rng(SEED).normal(size=(65536, 768)).astype(np.float16)
        np.save(Path(folder) / "rows.npy", rows)
        sources: dict[str, tuple[ActivationSource, int, int]] = {
            name: (SyntheticActivations(WorldOptions(d_in, n, l0)), *sae)
            for name, ((d_in, n, l0), *sae) in WORLDS.items()
        }
        sources["file, 768 wide"] = (ActivationFiles(folder), D_SAE, K)
        for name, (source, d_sae, k) in sources.items():
            source.open()
            step = seconds_a_step(source, steps, d_sae, k, method=True, again=True)
            stream = source.stream(BATCH, SEED)
            next(stream)
            n = 8 * max(1, source.rows_at_once // BATCH)
            read = seconds_of(lambda stream=stream, n=n: [next(stream) for _ in range(n)]) / n
            results[name] = {"read": read, "step": step, "read_of_step": read / step}
    return results


def table_of(results: dict[str, Any], title: str) -> Table:
    """One line a ratio."""
    table = Table("", "", "ratio", "wanted", title=title, title_justify="left")
    speeds = results["harvest"]["tokens_per_cpu_second"]
    for name in ("reader", "stream"):
        told = f"{speeds[name]:,.0f} of {speeds['bare']:,.0f} tokens/CPU s"
        ratio = f"{results['harvest'][f'{name}_of_bare']:.2f}"
        table.add_row(f"{name} of bare pass", told, ratio, "≥ 0.90")
    for name, r in results["prefetch"].items():
        told = f"{1e3 * r['without']:.0f} → {1e3 * r['with']:.0f} ms a step, d_sae {r['d_sae']}"
        wanted = "≥ 1.30" if name == "one thread each" else ""
        table.add_row(f"prefetch, {name}", told, f"{r['times_as_fast']:.2f}", wanted)
    for name, r in results["without a model"].items():
        told = f"{1e3 * r['read']:.1f} of {1e3 * r['step']:.1f} ms"
        table.add_row(f"{name} of a step", told, f"{r['read_of_step']:.2f}", "≤ 0.33")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="tiny", help="tiny, a folder or a name on the hub")
    parser.add_argument("--hook-name", default="blocks.3.hook_resid_post")
    parser.add_argument("--repeats", type=int, default=24, help="chunks; beside the bare pass")
    parser.add_argument("--steps", type=int, default=32, help="that are timed")
    parser.add_argument("--rounds", type=int, default=5, help="with and without prefetch")
    parser.add_argument("--out", type=Path, help="also save the figures as JSON")
    args = parser.parse_args()
    model, device = LanguageModel(args.model, args.hook_name), torch.device("cpu")
    results = {
        "harvest": beside_the_bare_pass(model, args.repeats),
        "prefetch": reading_ahead(model, args.steps, args.rounds),
        "without a model": without_a_model(args.steps),
    }
    name = device_name(device)
    Console(width=100).print(table_of(results, f"{name}, {args.model}"))
    if args.out:
        saved = {"device": name, "torch": torch.__version__, "model": args.model, **results}
        args.out.write_text(json.dumps(saved, indent=1) + "\n")


if __name__ == "__main__":
    main()
