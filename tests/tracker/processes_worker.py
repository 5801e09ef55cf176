"""What `test_processes` compares, computed alike by one process and by each of several.

Every scenario feeds trackers and says what it then reads from them. `main` runs all of them in
one process of a gloo group; a test runs them without a group, on the concatenated batches.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from temporal_sae.distributed import all_gather, all_reduce_sum
from temporal_sae.latents import Latents
from temporal_sae.loss.orthogonality import OrthogonalityLoss
from temporal_sae.tracker import CoActivationTracker, TranscriptTracker, all_weightings
from temporal_sae.tracker.processes import gather_tokens, shard_rows, whole_state

SECONDS_FOR_AN_EXCHANGE = 60
F, W, D = 32, 20, 8
OPTIONS: dict[str, Any] = {
    "n_latents": F,
    "window_size": W,
    "alpha_scale": 5.0,
    "alpha_cap": 0.3,
    "alpha_floor": 0.05,
    "totals_from": 25,
}
# Tokens and slots of the ranks in each batch: alike, different, none on a rank, none at all, many.
BATCHES = [
    ((13, 13, 13), (6, 6, 6)),
    ((17, 5, 9), (6, 4, 7)),
    ((8, 0, 30), (6, 0, 3)),
    ((0, 0, 0), (5, 2, 4)),
    ((45, 45, 45), (6, 6, 6)),
    ((9, 14, 2), (5, 6, 7)),
]
PENALTIES: dict[str, dict[str, Any]] = {
    "exact": {"estimator": "exact"},
    "exact average": {"estimator": "exact", "weighting": "long_average"},
    "exact sum of abs": {"estimator": "exact", "penalty": "abs", "reduction": "sum"},
    "exact floor": {"estimator": "exact", "floor": 1.0, "weighting": "stability"},
    "activations": {"estimator": "exact", "gram": "activations"},
    "sampled": {"estimator": "sampled", "sample_tokens": 7},
    "rates": {"weighting": "rates"},
    "exact excess": {"estimator": "exact", "weighting": "excess", "permuted": "rates"},
    "sampled excess": {"estimator": "sampled", "sample_tokens": 7, "weighting": "excess"},
    "sampled stable": {"estimator": "sampled", "sample_tokens": 7, "weighting": "stable"},
    "sampled floor": {"estimator": "sampled", "sample_tokens": 5, "floor": 1.0},
}
Named = dict[str, Any]
ALPHAS: dict[str, Named] = {
    "pair": {"alpha_source": "pair"},
    "union": {"alpha_source": "union", "init": "zero"},
    "const": {"alpha_source": "const"},
}


class Feed:
    """The batches as one process gets them: its own part, or (rank None) all of them in a row."""

    def __init__(self, rank: int | None, world: int) -> None:
        self.rank, self.world = rank, world

    def batch(
        self, seed: int, n: int, tokens: Iterable[int], slots: Iterable[int], zipf: float = 1.0
    ) -> Tensor:
        """The tokens of this process; int32 from every other rank."""
        shapes = list(zip(tokens, slots, strict=True))[: self.world]
        parts = [
            random_latents(seed * 10 + rank, n, *shape, zipf).to(
                (torch.int64, torch.int32)[rank % 2]
            )
            for rank, shape in enumerate(shapes)
        ]
        if self.rank is not None:
            return parts[self.rank]
        width = max(part.shape[1] for part in parts)
        pad = torch.nn.functional.pad
        return torch.cat([pad(part.long(), (0, width - part.shape[1]), value=-1) for part in parts])

    def batches(self, n: int = F) -> list[Tensor]:
        """All of BATCHES, with no more slots than latents."""
        return [
            self.batch(seed, n, tokens, (min(n, k) for k in slots))
            for seed, (tokens, slots) in enumerate(BATCHES)
        ]


def random_latents(seed: int, n: int, tokens: int, k: int, zipf: float = 1.0) -> Tensor:
    """Distinct latents a token, low numbers more often unless `zipf` is 0; some slots empty."""
    generator = torch.Generator().manual_seed(seed)
    popularity = torch.arange(1, n + 1) ** -zipf
    chosen = torch.rand(tokens, n, generator=generator).log().div(popularity).topk(k).indices
    return torch.where(torch.rand(tokens, k, generator=generator) < 0.8, chosen, -1)


def core(tracker: CoActivationTracker) -> Named:
    """The counts and averages of all pairs, from which all else follows."""
    n = tracker.n_latents
    i, j = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    read = {what: getattr(tracker, what)(i, j) for what in ("rate", "before", "average")}
    return read | {
        "windows_closed": tracker.windows_closed,
        "tokens_seen": tracker.tokens_seen,
        "last_window": tracker.last_window,
        "matrix": tracker.weight_matrix(),
    }


def readings(tracker: CoActivationTracker) -> Named:
    """All that can be asked of a tracker; what is equal but for rounding has a name with ~."""
    n = tracker.n_latents
    i, j = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    read = core(tracker)
    read["no pairs"] = tracker.before(i[:0], j[:0])
    read["columns first"] = tracker.before(i[1:].contiguous().T, j[1:].contiguous().T)
    for weighting in all_weightings():
        read |= readings_of_weights(tracker, weighting, i, j)
    if tracker.windows_closed:
        read["histogram"] = tracker.count_histogram()
    for least in (1, 3):
        read[f"pairs {least}"] = torch.stack(tracker.pairs(least))
    return read


def readings_of_weights(
    tracker: CoActivationTracker, weighting: Any, i: Tensor, j: Tensor
) -> Named:
    read = {
        "matrix": tracker.weight_matrix(weighting),
        "weight": tracker.weight(i, j, weighting),
        "rows": tracker.weight_rows(tracker.n_latents // 3, tracker.n_latents - 1, weighting),
        "~sum": tracker.weight_sum(weighting),
    }
    if tracker.windows_closed and all_weightings()[weighting].relative:
        read["token_weights"] = tracker.relative_weights(torch.arange(0, W, 3), weighting)
    return {f"{name} {weighting}": value for name, value in read.items()}


def penalties(tracker: CoActivationTracker) -> Named:
    """The penalty and its gradient, each way of summing it; equal but for rounding."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(11, 5, generator=generator)
    read: Named = {}
    for name, options in PENALTIES.items():
        W_dec = torch.randn(F, D, generator=generator.manual_seed(1), requires_grad=True)
        acts = values.clone().requires_grad_()
        latents = Latents(acts, random_latents(2, F, 11, 5))
        loss = OrthogonalityLoss(**options)(W_dec, tracker, latents)
        loss.backward()
        read[f"~penalty {name}"] = loss.detach()
        read[f"~gradient {name}"] = acts.grad if name == "activations" else W_dec.grad
    return read


def fed(tracker: CoActivationTracker, batches: Iterable[Tensor]) -> CoActivationTracker:
    for batch in batches:
        tracker.update(batch)
    return tracker


def course(tracker: CoActivationTracker, feed: Feed) -> list[Named]:
    """What is read before the first window, on the way, and at the end, there with penalties."""
    batches = feed.batches(tracker.n_latents)
    first = readings(tracker)
    second = readings(fed(tracker, batches[:3]))
    return [first, second, readings(fed(tracker, batches[3:])) | penalties(tracker)]


def unsharded(feed: Feed, storage: str) -> list[Named]:
    """Trackers of which each process holds all."""
    return course(CoActivationTracker(storage=storage, **OPTIONS), feed)


def sharded(feed: Feed, storage: str, alpha: str, shard: bool = True) -> list[Named]:
    """Trackers of which each process holds some rows."""
    options = OPTIONS | ALPHAS[alpha]
    return course(CoActivationTracker(storage=storage, sharded=shard, **options), feed)


def few_latents(feed: Feed, storage: str, n: int, shard: bool = True) -> Named:
    """With few latents a process has no pair to keep, or no row."""
    options = OPTIONS | {"n_latents": n, "storage": storage}
    return readings(fed(CoActivationTracker(sharded=shard, **options), feed.batches(n)))


def mixed_storages(feed: Feed, shard: bool = True) -> Named:
    """Shards that are stored one way on rank 0 and another way elsewhere, as `auto` may choose."""
    storage = "dense" if feed.rank == 0 else "sparse"
    tracker = CoActivationTracker(storage=storage, sharded=shard, **OPTIONS)
    return readings(fed(tracker, feed.batches()))


def transcript(feed: Feed) -> list[Named]:
    """The transcript's tracker, whose windows are what has arrived."""
    tracker, read = TranscriptTracker(F, window_size=W), []
    for batch in feed.batches():
        tracker.update(batch)
        read.append(
            {
                "windows_closed": tracker.windows_closed,
                "tokens_seen": tracker.tokens_seen,
                "last_window": tracker.last_window,
                "weights": tracker.weight_matrix(),
                "rates": tracker.rate_matrix(),
                "~sum": tracker.weight_sum(),
            }
        )
    return read


def saved(tracker: CoActivationTracker) -> Named:
    """The state as it comes back from a file."""
    file = io.BytesIO()
    torch.save(tracker.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def resumed(feed: Feed, source: Named, target: Named) -> Named:
    """What is read at the end of a run that changed trackers in mid-window."""
    batches = feed.batches()
    first = fed(CoActivationTracker(**source, **OPTIONS), batches[:2])
    state = saved(first)
    assert len(state["open"]) > 0
    fed(first, batches[2:])  # must not matter to the state
    second = CoActivationTracker(**target, **OPTIONS)
    second.load_state_dict(state)
    return core(fed(second, batches[2:]))


def straight_on(feed: Feed, storage: str = "reference", shard: bool = False) -> Named:
    """What is read at the end of a run without a break."""
    tracker = CoActivationTracker(storage=storage, sharded=shard, **OPTIONS)
    return core(fed(tracker, feed.batches()))


def sizes(feed: Feed, storage: str, shard: bool = True) -> Named:
    """Bytes of the averages of many pairs, here and in a checkpoint."""
    n, world = 300, range(feed.world)
    tracker = CoActivationTracker(n, window_size=100, storage=storage, sharded=shard)
    for seed in range(6):
        tracker.update(feed.batch(seed, n, (100 for _ in world), (20 for _ in world), zipf=0))
    state = tracker.state_dict()["averages"]
    averages = tracker._state.averages  # type: ignore[union-attr]
    return {
        "bytes": averages.nbytes(),
        "bytes_saved": sum(t.nbytes for t in state.values() if isinstance(t, Tensor)),
        "bytes_besides": tracker.nbytes() - averages.nbytes(),
    }


def pruning(feed: Feed, **options: Any) -> Named:
    """Averages and their bound where each shard forgets small averages by itself."""
    n, world = 150, range(feed.world)
    with mock.patch("temporal_sae.tracker.sparse.PRUNE_FROM", 200):
        tracker = CoActivationTracker(n, window_size=100, init="zero", **options)
        for seed in range(10):
            tracker.update(feed.batch(seed, n, (60 for _ in world), (10 for _ in world)))
    i, j = torch.triu_indices(n, n, 1)
    return {"bound": tracker.error_bound, "before": tracker.before(i, j)}


def totals(feed: Feed, storage: str, shard: bool = True) -> list[Named]:
    """Totals of all pairs, and those of a checkpoint that the first process has saved."""
    options = {"storage": storage, "sharded": shard, "totals_from": W, **OPTIONS}
    tracker = fed(CoActivationTracker(**options), feed.batches())
    states = [whole_state(tracker.state_dict())]
    if feed.rank is not None:
        dist.broadcast_object_list(states, 0)
    resumed = CoActivationTracker(**options)
    resumed.load_state_dict(states[0])
    return [totals_of(tracker), totals_of(resumed)]


def totals_of(tracker: CoActivationTracker) -> Named:
    found, n = tracker.totals, tracker.n_latents
    assert found is not None
    i, j = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    counts, squares = found.counts(i, j)
    numbers = {"n_tokens": found.n_tokens, "n_windows": found.n_windows, "n": found.n}
    return {"counts": counts, "squares": squares, **numbers}


def refusal(tracker: CoActivationTracker, state: Named) -> str:
    """The words with which a state is refused, or nothing."""
    try:
        tracker.load_state_dict(state)
    except ValueError as error:
        return str(error)
    return ""


def refusals(feed: Feed, storage: str) -> Named:
    """Which states are refused: a shard by a whole tracker, and another rank's shard."""
    shards = {"storage": storage, "sharded": True, **OPTIONS}
    own = saved(fed(CoActivationTracker(**shards), feed.batches()))
    states: list[Any] = [None] * feed.world
    dist.all_gather_object(states, own)
    wholes = ("dense", "sparse", "reference")
    said = {whole: refusal(CoActivationTracker(storage=whole, **OPTIONS), own) for whole in wholes}
    next_rank = (feed.rank + 1) % feed.world  # type: ignore[operator]
    said["next rank's"] = refusal(CoActivationTracker(**shards), states[next_rank])
    said["rank 0's"] = refusal(CoActivationTracker(**shards), states[0])
    said["own"] = refusal(CoActivationTracker(**shards), own)
    return said


def wrong_indices(feed: Feed) -> Named:
    """The last rank brings a latent that does not exist; then all go on with a right batch."""
    tracker = CoActivationTracker(F, window_size=5)
    last = feed.rank == feed.world - 1
    try:
        tracker.update(torch.tensor([[0, F if last else 1]]))
        said = ""
    except ValueError as error:
        said = str(error)
    tracker.update(torch.tensor([[0, 1]]))
    return {"said": said, "tokens": tracker.tokens_seen}


def exchanges(rank: int, world: int) -> Named:
    """The exchanges themselves, of tensors without elements and of every layout."""
    by_columns = torch.arange(6.0).view(2, 3).T
    return {
        "nothing": gather_tokens(torch.empty(0, 3, dtype=torch.int32)).shape,
        "own": [part.tolist() for part in all_gather(torch.full((rank, 2), rank), -1)],
        "layouts": all_reduce_sum(by_columns if rank else by_columns.contiguous()).tolist(),
        "empty": all_reduce_sum(torch.zeros(0)).shape,
        "given": by_columns.tolist(),
        "rows": {n: shard_rows(n) for n in (1, 2, 3, 7, F, 300, 5000)},
    }


def everything(feed: Feed) -> Named:
    """All scenarios that need a group."""
    assert feed.rank is not None
    read: Named = {"exchanges": exchanges(feed.rank, feed.world)}
    for storage in ("dense", "sparse", "reference", "auto"):
        read[f"unsharded {storage}"] = unsharded(feed, storage)
    read["sharded auto pair"] = sharded(feed, "auto", "pair")
    for storage in ("dense", "sparse"):
        for alpha in ALPHAS:
            read[f"sharded {storage} {alpha}"] = sharded(feed, storage, alpha)
        for n in (1, feed.world):
            read[f"few {storage} {n}"] = few_latents(feed, storage, n)
        read[f"sizes {storage}"] = sizes(feed, storage)
        read[f"totals {storage} shards"] = totals(feed, storage)
        read[f"totals {storage} wholes"] = totals(feed, storage, shard=False)
        read[f"refusals {storage}"] = refusals(feed, storage)
    read["wrong indices"] = wrong_indices(feed)
    read["mixed"] = mixed_storages(feed)
    read["transcript"] = transcript(feed)
    read["pruning"] = pruning(feed, storage="sparse", sharded=True, prune_below=5e-5)
    return read | states_that_move(feed)


def states_that_move(feed: Feed) -> Named:
    """Shards and whole states loaded into shards, by the storages that they move between."""
    read: Named = {}
    for target in ("dense", "sparse"):
        shard = {"storage": target, "sharded": True}
        for source in ("dense", "sparse", "reference"):
            read[f"resumed {source} whole to {target}"] = resumed(feed, {"storage": source}, shard)
        for source in ("dense", "sparse"):
            half = {"storage": source, "sharded": True}
            read[f"resumed {source} shard to {target}"] = resumed(feed, half, shard)
    return read


def start(rank: int, world: int, file: Path, backend: str = "gloo") -> None:
    dist.init_process_group(
        backend,
        init_method=file.absolute().as_uri(),
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=SECONDS_FOR_AN_EXCHANGE),
    )


def in_a_group(rank: int, world: int, folder: Path, work: Callable[[Feed], Named]) -> Named:
    """Run scenarios, with one default group after another."""
    start(rank, world, folder / "first_group")
    read = work(Feed(rank, world))
    dist.destroy_process_group()
    # As with NCCL: a default group that cannot take tensors on the CPU.
    for name in ("second_group", "third_group"):
        start(rank, world, folder / name, backend="cuda:gloo")
        with mock.patch.object(dist, "get_backend", return_value="nccl"):
            read[name] = straight_on(Feed(rank, world), "dense", shard=True)
        dist.destroy_process_group()
    return read


def main(rank: int, world: int, folder: Path) -> None:
    """One process of a group: what it reads goes to a file, what it says to another."""
    with (folder / f"{rank}.log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    read = in_a_group(rank, world, folder, everything)
    torch.save(read, folder / f"part_{rank}.pt")
    os.replace(folder / f"part_{rank}.pt", folder / f"{rank}.pt")
