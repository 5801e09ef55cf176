"""The tracker across processes: every rank sees all tokens, and may keep a part of the pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from temporal_sae.distributed import (
    all_gather,
    all_reduce_max,
    all_reduce_sum,
    fail_all_gather,
    gather_to_rank_zero,
    is_rank_zero,
    rank,
    world_size,
)
from temporal_sae.kernels import windows
from temporal_sae.kernels.averages import AlphaStep, pairs_before
from temporal_sae.tracker.checks import check_indices
from temporal_sae.tracker.saved import key_bits, saved_pairs
from temporal_sae.tracker.totals import whole_totals
from temporal_sae.tracker.window import Window


def rows_of_all(
    indices: Int[Tensor, "tokens K"], n_latents: int, device: torch.device
) -> Int[Tensor, "all_tokens K"]:
    """Return the tokens of all processes as rows, on a device.

    Args:
        indices: of this process, as `CoActivationTracker.update` takes them.

    Raises:
        ValueError: they are none; then in all processes.
    """
    try:
        check_indices(indices)
        rows = windows.sorted_rows(indices.to(device), n_latents)
    except ValueError:
        fail_gather_tokens()
        raise
    return gather_tokens(rows)


def gather_tokens(rows: Int[Tensor, "tokens K"]) -> Int[Tensor, "all_tokens K"]:
    """Return the tokens of all processes in rank order; without a group the same ones."""
    if world_size() == 1:
        return rows
    try:
        parts = all_gather(rows, -1)
    except ValueError as error:
        raise ValueError(f"indices: were {error}") from None
    width = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(p, (0, width - p.shape[1]), value=-1) for p in parts])


def fail_gather_tokens() -> None:
    """Let the processes that wait for this one's tokens raise, too."""
    fail_all_gather(2)


def shard_rows(n_latents: int) -> tuple[int, int]:
    """Return the rows that this process keeps: about as many pairs for each rank."""
    if world_size() == 1:
        return 0, n_latents
    starts = torch.tensor([pairs_before(n_latents, row) for row in range(n_latents + 1)])
    shares = torch.arange(world_size() + 1) * starts[-1] // world_size()
    bounds = torch.searchsorted(starts, shares)
    bounds[-1] = n_latents
    return int(bounds[rank()]), int(bounds[rank() + 1])


def whole_state(state: dict[str, Any]) -> dict[str, Any]:
    """Return a tracker's state with the rows of all its shards, for the first process to save.

    The others get their own back, as all do where each holds the whole. Whatever the number of
    processes, each of them can then load the rows that it keeps.

    Args:
        state: of a tracker of this process.
    """
    own, n = state.get("averages"), state.get("n_latents", 0)
    if world_size() == 1 or own is None:
        return state
    (in_shards,) = all_reduce_max(int((own.get("lo", 0), own.get("hi", n)) != (0, n)))
    if not in_shards:
        return state
    whole = state | {"averages": _put_together(own, n)}
    if "totals" in state:
        whole["totals"] = whole_totals(state["totals"], n)
    return whole


def _put_together(own: dict[str, Any], n_latents: int) -> dict[str, Any]:
    """Packed triangles follow each other by rank; where some keep lists of pairs all do."""
    (as_pairs,) = all_reduce_max(int("keys" in own))
    prunings, prune_at = all_reduce_max(own.get("prunings", 0), own.get("prune_at", 0))
    if as_pairs and "keys" not in own:
        own = _as_pairs(own, n_latents)
    if as_pairs:
        own = {**own, "keys": own["keys"].long()}
    names = ("keys", "averages") if as_pairs else ("averages",)
    parts = {name: gather_to_rank_zero(own[name]) for name in names}
    whole: dict[str, Any] = (
        {name: torch.cat(parts[name]) for name in names} if is_rank_zero() else own
    )
    whole |= {"lo": 0, "hi": n_latents}
    return whole | ({"prunings": prunings, "prune_at": prune_at} if as_pairs else {})


def _as_pairs(own: dict[str, Any], n_latents: int) -> dict[str, Any]:
    """Return a packed triangle as a list of pairs."""
    bits = key_bits(n_latents)
    found = [((i << bits) | j, values) for i, j, values in saved_pairs(own, n_latents)]
    keys, averages = zip(*found, strict=True)
    return {"keys": torch.cat(keys), "averages": torch.cat(averages)}


class ShardedAverages:
    """Averages of which every process keeps some rows; what is read is put together from all.

    Every rank has the whole window, so only averages are exchanged, and all ranks ask for the same
    pairs at the same time. `state_dict` holds the own rows only, see `whole_state`.

    Args:
        own: the averages of this process's rows.
    """

    def __init__(self, own: Any) -> None:
        self.own = own
        self.relabel = own.relabel

    @property
    def error_bound(self) -> float:
        """The largest bound of any process."""
        bounds = torch.tensor([getattr(self.own, "error_bound", 0.0)])
        return float(torch.cat(all_gather(bounds)).max())

    def close(self, previous: Window | None, step: AlphaStep, window: Window) -> Tensor:
        """See `state.Averages`."""
        return all_reduce_sum(self.own.close(previous, step, window))

    def lookup(self, i: Tensor, j: Tensor) -> Tensor:
        """See `state.Averages`."""
        return all_reduce_sum(self.own.lookup(i, j))

    def row_block(self, lo: int, hi: int) -> Tensor:
        """See `state.Averages`."""
        return all_reduce_sum(self.own.row_block(lo, hi))

    def at_least(self, bound: float) -> tuple[Tensor, Tensor]:
        """See `state.Averages`."""
        own = torch.stack(self.own.at_least(bound))
        i, j = torch.cat(all_gather(own), 1)
        return i, j

    def sum_over(self, term: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """See `state.Averages`."""
        return all_reduce_sum(self.own.sum_over(term))

    def total(self) -> Tensor:
        """See `state.Averages`."""
        return all_reduce_sum(self.own.total())

    def nbytes(self) -> int:
        """Bytes held by this process."""
        return int(self.own.nbytes())

    def state_dict(self) -> dict[str, Any]:
        """Return the own rows."""
        return dict(self.own.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a state that holds the own rows, this rank's or a whole one.

        Raises:
            ValueError: in every process, if any cannot use its state: one that went on alone would
                mistake the others' next exchange for its own.
        """
        problem: ValueError | None = None
        try:
            self.own.load_state_dict(state)
        except ValueError as error:
            problem = error
        refused = int(all_reduce_sum(torch.tensor(int(problem is not None))))
        if problem is not None:
            raise problem
        if refused:
            raise ValueError(f"state: refused by {refused} of {world_size()} processes")
