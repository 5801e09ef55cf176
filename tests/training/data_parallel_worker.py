"""What `test_data_parallel` compares, computed alike by one process and by each of several."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from temporal_sae import distributed
from temporal_sae.activations import ActivationBatch, Harvest, LanguageModel, Rows
from temporal_sae.data import TextFiles
from temporal_sae.distributed import collectives
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.loss import (
    ChunkedOrthogonalityLoss,
    ConsecutiveLoss,
    ConsistencyLoss,
    OrthogonalityLoss,
)
from temporal_sae.sae import (
    BatchTopKSAE,
    GatedSAE,
    JumpReLUSAE,
    ListaSAE,
    MatryoshkaSAE,
    StandardSAE,
    TopKSAE,
)
from temporal_sae.sae.batch_topk import kth_largest_of_all
from temporal_sae.tracker import CoActivationTracker, TranscriptTracker
from temporal_sae.tracker.stability import StabilityMonitor
from temporal_sae.training import (
    Checkpoints,
    JsonlLogger,
    NoLogger,
    Parts,
    Preempted,
    ProgressDisplay,
    Stopped,
    Trainer,
    saving,
    trainer,
)
from temporal_sae.training.saving import Saving
from temporal_sae.training.state_file import StateFile

D, F, K, B, STEPS = 8, 32, 4, 60, 18  # 60 tokens: of 2, 3 and 5 processes
Named = dict[str, Any]
SAES: dict[str, Callable[[], Any]] = {
    "topk": lambda: TopKSAE(D, F, K),
    "batch_topk": lambda: BatchTopKSAE(D, F, K),
    "matryoshka": lambda: MatryoshkaSAE(D, F, K, group_fractions=[0.25, 0.25, 0.5]),
    "lista": lambda: ListaSAE(D, F, K, group_fractions=[0.25, 0.25, 0.5]),
    "standard": lambda: StandardSAE(D, F, 0.01, resample_every=6),
    "jumprelu": lambda: JumpReLUSAE(D, F, 4.0, initial_threshold=0.2, bandwidth=0.2),
    "gated": lambda: GatedSAE(D, F, 0.01),
}
SMALL: Named = {"window_size": 100, "alpha_scale": 5.0}
ACTIVATIONS = {"gram": "activations", "reduction": "sum", "ortho_weight": 0.1}
# Each a sentence of an SAE, and options of the trainer, the tracker and the penalty.
SCENARIOS: dict[str, Named] = {
    **{name: {"sae": name} for name in SAES},
    "sse": {"trainer": {"reconstruction": "sse"}},
    "norm": {"trainer": {"reconstruction": "norm", "b_dec_init": "mean"}},
    "dense step": {"sae": "jumprelu", "trainer": {"step": "dense"}},
    "sparse step": {"sae": "gated", "trainer": {"step": "sparse"}},
    "sampled": {"penalty": OrthogonalityLoss(estimator="sampled", sample_tokens=7)},
    "uniform part": {"penalty": OrthogonalityLoss(floor=1.0, weighting="long_average")},
    "activations": {"penalty": OrthogonalityLoss(**ACTIVATIONS)},
    "activations of unequal width": {
        "sae": "standard",
        "penalty": OrthogonalityLoss(**ACTIVATIONS),
    },
    "consecutive": {"penalty": ConsecutiveLoss(1.0)},
    "chunks": {"penalty": ChunkedOrthogonalityLoss(1.0, 2)},
    "consistency": {"penalty": ConsistencyLoss(interval=2)},
    "ordered": {"tracker": {"stream": "ordered"}},
    "ordered, batch_topk": {"sae": "batch_topk", "tracker": {"stream": "ordered"}},
    "dead": {"trainer": {"dead_after_tokens": 180, "lr": 0.05}},
    "dead, batch_topk": {"sae": "batch_topk", "trainer": {"dead_after_tokens": 180, "lr": 0.05}},
    "resampling": {
        "sae": "standard",
        "trainer": {"dead_after_tokens": 90, "lr": 0.1},
        "penalty": OrthogonalityLoss(3.0, weighting="instability"),  # latents die
    },
    "sharded": {"tracker": {"sharded": True, "storage": "dense"}},
    "sharded pairs": {"tracker": {"sharded": True, "storage": "sparse", "alpha_source": "union"}},
    "transcript": {"tracker": None},
}


class Mixtures:
    """Sparse mixtures of fixed directions, the same in every process; endless and resumable.

    Args:
        ordered: hand out tokens in text order too, in pieces of several lengths.
        at: step in which something happens.
        happens: what.
    """

    def __init__(
        self, ordered: bool = False, at: int = 0, happens: Callable[[], None] | None = None
    ) -> None:
        directions = torch.randn(F, D, generator=torch.Generator().manual_seed(1))
        self.directions = torch.nn.functional.normalize(directions, dim=-1)
        self.n, self.ordered, self.at, self.happens = 0, ordered, at, happens

    def __next__(self) -> ActivationBatch:
        self.n += 1
        if self.happens and self.n == self.at:
            self.happens()
        x = self.rows(self.n, B)
        lengths = (B, 1, 0, 37) if self.ordered else ()
        ordered = tuple(Rows(self.rows(self.n + 1000, n)) for n in lengths)
        return ActivationBatch(Rows(x), ordered)

    def rows(self, seed: int, n: int) -> Tensor:
        codes = torch.rand(n, F, generator=torch.Generator().manual_seed(seed))
        return (codes * (codes > 0.9)) @ self.directions + 0.1

    def sample(self, n: int) -> Tensor:
        return self.rows(0, min(n, 300))

    def metrics(self) -> dict[str, Tensor]:
        return {}

    def state_dict(self) -> Named:
        return {"n": self.n}

    def load_state_dict(self, state: Named) -> None:
        self.n = state["n"]


def make_tracker(options: Named | None) -> Any:
    if options is None:
        return TranscriptTracker(F, window_size=100)
    return CoActivationTracker(F, **SMALL, **options)


def make(scenario: Named, folder: Path, **mixtures: Any) -> tuple[Trainer, Parts]:
    """A trainer and all that it trains."""
    torch.manual_seed(0)
    tracker = make_tracker(scenario.get("tracker", {}))
    parts = Parts(
        sae=SAES[scenario.get("sae", "topk")](),
        batches=Mixtures(ordered=tracker.stream == "ordered", **mixtures),
        tracker=tracker,
        penalty=scenario.get("penalty") or OrthogonalityLoss(),
        logger=JsonlLogger(folder) if distributed.is_rank_zero() else NoLogger(),
        checkpoints=Checkpoints(folder / "checkpoints"),
        progress=ProgressDisplay(1, Console(quiet=True)),
        stability=None if scenario.get("tracker", {}) is None else StabilityMonitor(10),
    )
    options = {"lr": 1e-2, "warmup_steps": 5, "log_every": 5, "checkpoint_every": 1000}
    options |= scenario.get("trainer", {})
    return Trainer(num_tokens=STEPS * B, batch_size=B, **options), parts


def readings(parts: Parts, run: Any) -> Named:
    """What a run leaves; what is equal but for rounding has a name with ~."""
    tracker = parts.tracker
    kept = ("loss", "explained_variance", "l0", "dead_share", "gradient_norm")
    return {
        "~weights": dict(parts.sae.state_dict()),
        "~metrics": {name: run.metrics[name] for name in kept},
        "tokens": run.metrics["tokens"],
        "silent_for": run.dead.silent_for,
        "windows_closed": tracker.windows_closed,
        "last_window": tracker.last_window,
        "pair weights": tracker.weight_matrix(),
    }


def trained(name: str, folder: Path) -> Named:
    """One scenario from its beginning to its end."""
    trainer, parts = make(SCENARIOS[name], folder / name)
    return readings(parts, trainer.fit(parts))


def stop_and_go_on(name: str, folder: Path) -> Named:
    """The last process gets a signal in the seventh step; then all go on with new parts."""
    last = distributed.rank() == distributed.world_size() - 1

    def interrupt() -> None:
        signal.raise_signal(signal.SIGINT)

    happens = interrupt if last else None
    trainer, parts = make(SCENARIOS[name], folder / name, at=7, happens=happens)
    try:
        trainer.fit(parts)
    except Stopped as stopped:
        said = (stopped.step, int(stopped.signal_number))
    stopped_at = keep_checkpoints(folder / name, folder / f"{name}, stopped")
    trainer, parts = make(SCENARIOS[name], folder / name)
    run = trainer.fit(parts)
    return {"said": said, "stopped at": stopped_at, **readings(parts, run)}


def keep_checkpoints(source: Path, target: Path) -> list[str]:
    """A copy of the run as it is now, for a test to go on from; names of the checkpoints."""

    def copy() -> list[str]:
        files = sorted((source / "checkpoints").iterdir())
        (target / "checkpoints").mkdir(parents=True)
        for file in files:
            (target / "checkpoints" / file.name).write_bytes(file.read_bytes())
        return [file.name.split(".")[0] for file in files]

    return distributed.on_rank_zero(copy)


def preempted(folder: Path, goes_on: bool) -> Named:
    """SIGUSR2 reaches the last process only; the handler of the first decides."""
    called: list[int] = []

    def handler(number: int, frame: Any) -> None:
        called.append(number)
        if not goes_on:
            raise SystemExit(-1)

    before = signal.signal(signal.SIGUSR2, handler)
    last = distributed.rank() == distributed.world_size() - 1
    happens = (lambda: signal.raise_signal(signal.SIGUSR2)) if last else None
    place = folder / f"preempted {goes_on}"
    trainer, parts = make({}, place, at=5, happens=happens)
    said = None
    try:
        trainer.fit(parts)
    except Preempted as leaving:
        said = (leaving.step, leaving.code)
    finally:
        signal.signal(signal.SIGUSR2, before)
    steps = keep_checkpoints(place, folder / f"preempted {goes_on}, copy")
    return {"said": said, "called": len(called), "steps": steps}


def saved_beside(folder: Path) -> Named:
    """By the first's clock, on which a step takes a minute; the others' stand still.

    All is written in the background; at the second time the disk is full, which the first notices.
    """
    is_first, steps, write = distributed.is_rank_zero(), [], StateFile.write
    saving.SMALL = 0

    class Noted(Saving):
        def save(self, parts: Parts, run: Any, *, may_go_on: bool = False) -> None:
            steps.append(run.step)
            super().save(parts, run, may_go_on=may_go_on)

    def full(self: StateFile, file: Any) -> str:
        if is_first and len(steps) > 1:
            raise OSError(28, "No space left", "somewhere")
        return write(self, file)

    made, parts = make({"trainer": {"checkpoint_minutes": 3.5}}, folder / "beside")
    clock = (lambda: 60.0 * parts.batches.n) if is_first else (lambda: 0.0)
    StateFile.write, trainer.Saving = full, partial(Noted, clock=clock)
    return {
        "said": error_of(lambda: made.fit(parts)),
        "steps": steps,
        "files": [path.name.split(".")[0] for path in (folder / "beside/checkpoints").iterdir()],
    }


def not_finite(folder: Path) -> Named:
    """One token of one process is broken: all say the same, and name the cause."""

    class Broken(Mixtures):
        def rows(self, seed: int, n: int) -> Tensor:
            x = super().rows(seed, n)
            if seed == 4:
                x[-1, 0] = torch.nan
            return x

    trainer, parts = make({}, folder / "broken")
    parts.batches = Broken()
    return {"said": error_of(lambda: trainer.fit(parts))}


def error_of(function: Callable[[], Any]) -> str:
    try:
        function()
    except (RunError, InvalidOption, ValueError, OSError) as error:
        return f"{type(error).__name__}: {error}, {distributed.is_collective(error)}"
    return ""


def agreements() -> Named:
    """How results and errors of one become those of all."""
    rank, last = distributed.rank(), distributed.world_size() - 1

    def refuse() -> None:
        raise InvalidOption("trainer.lr", rank, "another one")

    def full() -> None:
        raise OSError(28, "No space left", "somewhere")

    def seen_inside() -> tuple[int, float]:
        return distributed.world_size(), float(distributed.all_reduce_mean(torch.tensor(3.0)))

    return {
        "result": distributed.on_rank_zero(lambda: Path("of") / str(rank)).as_posix(),
        "inside": distributed.on_rank_zero(seen_inside),
        "refused by the first": error_of(lambda: distributed.on_rank_zero(refuse)),
        "disk full": error_of(lambda: distributed.on_rank_zero(full)),
        "refused by the last": error_of(
            lambda: distributed.raise_on_all_ranks(refuse if rank == last else lambda: None)
        ),
        "refused by none": distributed.raise_on_all_ranks(lambda: 5),
        "largest": distributed.all_reduce_max(rank, -rank),
        "bfloat16": torch.cat(
            distributed.all_gather(torch.ones(2, 3, dtype=torch.bfloat16))
        ).tolist(),
        "any": distributed.all_reduce_any(torch.arange(last + 2) == rank).tolist(),
    }


def thresholds() -> list[float]:
    """The k-th largest of all, where parts are alike, differ, are tied, or hardly positive."""
    read = []
    for case in range(4):
        acts = torch.randn(B, F, generator=torch.Generator().manual_seed(case))
        acts += torch.arange(B)[:, None] / 20 if case == 1 else 0
        acts = acts.mul(2).round() if case == 2 else acts
        acts -= 3.2 if case == 3 else 0
        own = distributed.local_shard(acts)
        read.append(float(kth_largest_of_all(own.contiguous(), K * len(own))))
    return read


def streamed(model: Path, text: Path) -> Named:
    """Batches of a language model's activations, in sequences that cannot be shared out evenly."""
    read: Named = {}
    lm = LanguageModel(str(model), "blocks.1.hook_resid_post")
    for n in (1, 5):
        source = Harvest(
            16, lm_batch_size=n, buffer_tokens=256, model=lm, text=TextFiles(str(text))
        )
        source.open()
        stream = source.stream(30, 0, ordered=True)
        batches = [next(stream) for _ in range(6)]
        read[f"~x {n}"] = torch.stack([batch.x for batch in batches])
        read[f"~ordered {n}"] = torch.cat([r.x for batch in batches for r in batch.ordered])
        read[f"places {n}"] = torch.stack([batch.rows.places for batch in batches])
        read[f"cursor {n}"] = str(stream.state_dict()["reader"])
    return read


def everything(folder: Path, model: Path, text: Path) -> Named:
    """All that goes well, or wrong in all processes alike."""
    read: Named = {"thresholds": thresholds(), "agreements": agreements()}
    read["not finite"] = not_finite(folder)
    for goes_on in (True, False):
        read[f"preempted {goes_on}"] = preempted(folder, goes_on)
    for name in ("resampling", "sharded", "sharded pairs"):
        read[f"{name}, continued"] = stop_and_go_on(name, folder / "continued")
    for name in SCENARIOS:
        read[name] = trained(name, folder)
    return read | {"streamed": streamed(model, text)}


def go_on(name: str, folder: Path) -> Named:
    """A run that other processes have begun."""
    return trained_in(name, folder)


def trained_in(name: str, folder: Path) -> Named:
    trainer, parts = make(SCENARIOS[name], folder)
    return readings(parts, trainer.fit(parts))


def killed(folder: Path) -> Named:
    """The last process is killed in the fifth step."""
    last = distributed.rank() == distributed.world_size() - 1
    happens = (lambda: os.kill(os.getpid(), signal.SIGKILL)) if last else None
    trainer, parts = make({}, folder, at=5, happens=happens)
    return {"steps": trainer.fit(parts).step}


def failing(folder: Path) -> Named:
    """The last process has an error of its own in the fifth step; another asks late for it."""

    def fail() -> None:
        raise ValueError("its own error")

    def late() -> str | None:
        time.sleep(1)
        return recorded_failure()

    last = distributed.rank() == distributed.world_size() - 1
    recorded_failure = collectives.recorded_failure
    if distributed.rank() == 1:
        collectives.recorded_failure = late
    trainer, parts = make({}, folder, at=5, happens=fail if last else None)
    return {"steps": trainer.fit(parts).step}


def by_torchrun(rank: int, world: int, port: int) -> dict[str, str]:
    """What torchrun, and the local launcher, put into the environment of a process."""
    return {
        "RANK": f"{rank}",
        "LOCAL_RANK": f"{rank}",
        "WORLD_SIZE": f"{world}",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": f"{port}",
    }


def by_slurm(rank: int, world: int, port: int) -> dict[str, str]:
    """What srun puts there for two nodes with one task more on the first."""
    return {
        "SLURM_JOB_ID": f"{port}",
        "SLURM_JOB_NAME": "sweep",
        "SLURM_NTASKS": "7",  # of the allocation
        "SLURM_STEP_NUM_TASKS": f"{world}",
        "SLURM_PROCID": f"{rank}",
        "SLURM_NODEID": f"{int(rank == world - 1)}",
        "SLURM_LOCALID": f"{rank % (world - 1)}",
        "SLURM_NODELIST": "localhost",
    }


def small_exchange(folder: Path) -> Named:
    """Enough to see who is there."""
    return {"ranks": distributed.all_gather(torch.tensor([distributed.rank()]))}


def work_in(
    rank: int,
    world: int,
    port: int,
    folder: Path,
    work: Callable[..., Named],
    environment: Callable[[int, int, int], dict[str, str]] = by_torchrun,
) -> None:
    """One process of a group: what it reads, or the error that ends it, goes to a file."""
    with (folder / f"{rank}.log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    torch.set_num_threads(1)
    os.environ |= environment(rank, world, port)
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        with distributed.process_group(on_cuda=False):
            read = work(folder)
            read["is silent"] = logging.root.manager.disable == logging.WARNING
    except RunError as error:
        read = {"error": str(error), "told": distributed.is_left_to_rank_zero(error)}
    torch.save(read, folder / f"{rank}.part")
    os.replace(folder / f"{rank}.part", folder / f"{rank}.pt")
