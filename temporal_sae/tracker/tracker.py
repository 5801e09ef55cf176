"""The co-activation tracker: which latents fire together, and how that differs from before.

Tokens arrive in stream order and are cut into windows of `window_size`, wherever the batches
happen to end. When a window closes, the rates c of its pairs are compared with their running
averages c̄, and the averages take in the window. Until the next closing the pair weights

    w_ij = c_ij (1 + s_ij),    s_ij = |c_ij - c̄_ij| / max(c_ij, c̄_ij)

hold, with c̄ as it was before the window.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.distributed import world_size
from temporal_sae.errors import InvalidOption, check_bool, check_choice, check_int, check_number
from temporal_sae.kernels import windows
from temporal_sae.machine import Planned
from temporal_sae.registry import component
from temporal_sae.tracker.alpha import AlphaRule
from temporal_sae.tracker.checks import check_indices, check_pair
from temporal_sae.tracker.choice import (
    check_storage,
    choose_storage,
    storage_bytes,
    window_bytes,
)
from temporal_sae.tracker.dense import DenseAverages
from temporal_sae.tracker.processes import (
    ShardedAverages,
    fail_gather_tokens,
    gather_tokens,
    shard_rows,
)
from temporal_sae.tracker.reference import ReferenceState
from temporal_sae.tracker.sparse import SparseAverages
from temporal_sae.tracker.state import Averages, PairState, WindowedState
from temporal_sae.tracker.totals import Totals, new_totals
from temporal_sae.tracker.weightings import PairStatistics, find_weighting
from temporal_sae.tracker.window import OpenWindow

log = logging.getLogger(__name__)

STREAMS = ("shuffled", "ordered")
PAIRS_AT_ONCE = 2**22


@component("tracker")
class CoActivationTracker:
    """Windowed co-activation rates of all pairs of latents and their running averages.

    Where torch.distributed is initialised, `update` gathers the tokens of all processes, in the
    order of their ranks, so that every process holds what one would hold on the whole batch; all
    must call it, and every method that reads weights when `sharded`, in the same order.

    Args:
        n_latents: F, the number of latents.
        window_size: W, tokens per window.
        alpha_cap: largest step of the running average, in (0, 1]; for `pair` and `union`.
        alpha_scale: count at which the step would reach 1 without the cap; for `pair` and `union`.
        alpha_source: `pair` (the pair's own count; never forgets a pair that stopped), `union`
            (tokens in which either fires), or `const` (max(1/m, alpha_floor) in window m).
        alpha_floor: smallest step of `const`.
        init: `first` starts the averages at the first window's rates, `zero` at 0.
        storage: `dense` (a packed triangle, 2 F² bytes), `sparse` (the pairs that were seen, about
            10 bytes each), `reference` (three F x F matrices in plain torch: slow, the oracle), or
            `auto`: dense where it takes at most a quarter of the free memory, see `choice`.
        device: where the state lives; indices on another device are copied to it.
        stream: which tokens the trainer feeds: `shuffled` (the batches the SAE trains on) or
            `ordered` (text order, at the price of one more encoder pass). The tracker itself takes
            whatever `update` is given.
        prune_below: for `sparse`: forget averages below this whenever the pairs, once more than 67
            million, have grown by half; `error_bound` says what that can have cost. 0: never.
        sharded: each process keeps the averages of a range of rows, for a state that does not fit
            one device; reading weights then takes an exchange.
        totals_from: keep plain totals too, see `totals`, of the windows that begin with this token
            of the stream or a later one; 0 for all, None for no totals.

    Attributes:
        totals: `Totals` of all pairs; None without `totals_from` and before the first window.

    Raises:
        InvalidOption: an option is out of range.
    """

    # Whether a weight is what its weighting says, so that the window's tokens can be sampled.
    weights_follow_window = True
    gives_weights = True

    def __init__(
        self,
        n_latents: int,
        window_size: int = 1000,
        alpha_cap: float = 0.1,
        alpha_scale: float = 1000.0,
        alpha_source: str = "pair",
        alpha_floor: float = 0.0,
        init: str = "first",
        storage: str = "auto",
        device: str | torch.device = "cpu",
        stream: str = "shuffled",
        prune_below: float = 0.0,
        sharded: bool = False,
        totals_from: int | None = None,
    ) -> None:
        self.n_latents = check_int("n_latents", n_latents, 1)
        self.window_size = check_int("window_size", window_size, 1)
        self.alpha = AlphaRule(alpha_source, alpha_cap, alpha_scale, alpha_floor, init)
        self.prune_below = check_number("prune_below", prune_below)
        self.sharded = check_bool("sharded", sharded)
        self.totals_from = totals_from
        if totals_from is not None:
            self.totals_from = check_int("totals_from", totals_from, 0)
        check_storage(storage, self.prune_below)
        if sharded and storage == "reference":
            raise InvalidOption("sharded", sharded, "false with storage=reference")
        self.stream = check_choice("stream", stream, STREAMS)
        self.device = torch.device(device)
        self.storage = storage
        self.windows_closed = 0
        self.tokens_seen = 0
        self._open = OpenWindow()
        self._weight_sums: dict[str, Tensor] = {}
        self.totals: Totals | None = None
        self._state = None if storage == "auto" else self._new_state(storage)

    def _new_state(self, storage: str) -> PairState:
        if storage == "reference":
            return ReferenceState(self.n_latents, self.alpha, self.device)
        rows = shard_rows(self.n_latents) if self.sharded else None
        averages: Averages
        if storage == "dense":
            averages = DenseAverages(self.n_latents, self.device, rows)
        else:
            averages = SparseAverages(self.n_latents, self.device, rows, self.prune_below)
        if self.sharded:
            averages = ShardedAverages(averages)
        return WindowedState(self.n_latents, self.alpha, averages)

    def planned_bytes(self, n_latents: int, k: int, device: torch.device) -> dict[str, Planned]:
        """Return the bytes of such a tracker for a run's SAE: averages and two windows.

        Args:
            n_latents: F of that SAE; this tracker may have been built with another.
            k: latents of a token at most.
            device: where it would live.
        """
        shards = world_size() if self.sharded else 1
        with_totals = self.totals_from is not None
        sizes = n_latents, k, self.window_size
        storage, _ = choose_storage(self.storage, *sizes, device, shards, with_totals)
        # The pairs of `sparse` are not known yet; they come as they are seen.
        pairs = 0
        if storage != "sparse":
            pairs = storage_bytes(storage, *sizes, with_totals) // shards
        of_windows = 2 * window_bytes(storage, n_latents, k, self.window_size, device)
        keys = ("tracker.window_size", "sae.k") if of_windows > pairs else ("sae.d_sae",)
        return {"tracker": Planned(of_windows + pairs, keys)}

    def _prepare(self, k: int) -> PairState:
        """Return the state; `auto` is settled once the number of active latents is known."""
        if self._state is None:
            shards = world_size() if self.sharded else 1
            sizes = self.n_latents, k, self.window_size
            with_totals = self.totals_from is not None
            self.storage, reason = choose_storage(
                self.storage, *sizes, self.device, shards, with_totals
            )
            log.info("tracker.storage: %s (%s)", self.storage, reason)
            self._state = self._new_state(self.storage)
        return self._state

    @property
    def last_window(self) -> Int[Tensor, "W K"] | None:
        """Latents of the last closed window's tokens, ascending, -1 in empty slots."""
        return None if self._state is None else self._state.last_window

    @property
    def error_bound(self) -> float:
        """The most by which a running average can be too low because `prune_below` forgot it."""
        averages = getattr(self._state, "averages", None)
        return getattr(averages, "error_bound", 0.0)

    @torch.no_grad()
    def update(self, indices: Int[Tensor, "tokens K"]) -> None:
        """Take in the active latents of the next tokens, in stream order.

        Args:
            indices: distinct latents of each token, in any order; -1 marks an empty slot.

        Raises:
            ValueError: `indices` is no integer matrix, or has a value outside [-1, F) or a latent
                twice in a token. On CUDA values are not looked at, since that would wait for the
                device: wrong ones are dropped.
        """
        rows = self._rows_of_all_processes(indices)
        self._prepare(rows.shape[1])
        self.tokens_seen += rows.shape[0]
        while rows.shape[0]:
            room = self.window_size - self._open.size
            self._open.add(rows[:room].clone())  # a view would keep the whole batch
            rows = rows[room:]
            if self._open.size == self.window_size:
                self._close()

    def _rows_of_all_processes(self, indices: Tensor) -> Int[Tensor, "tokens K"]:
        try:
            check_indices(indices)
            rows = windows.sorted_rows(indices.to(self.device), self.n_latents)
        except ValueError:
            fail_gather_tokens()
            raise
        return gather_tokens(rows)

    def _close(self) -> None:
        self.windows_closed += 1
        rows = self._open.take()
        state = self._prepare(rows.shape[1])
        state.close(rows, self.windows_closed)
        self._weight_sums = {}
        if self.totals_from is not None:
            if self.totals is None:
                self.totals = self._new_totals(self.totals_from)
            self.totals.add(state.closed(), (self.windows_closed - 1) * self.window_size)

    def _new_totals(self, first_token: int) -> Totals:
        rows = shard_rows(self.n_latents) if self.sharded else (0, self.n_latents)
        return new_totals(self.storage, self.n_latents, first_token, rows, self.device)

    def rate(self, i: Tensor, j: Tensor) -> Tensor:
        """c_ij of the last closed window; n_ii / W where i = j. i and j: int tensors of one shape.

        Raises:
            ValueError: for i or j of another kind, or on different devices.
        """
        return self._read("rate", i, j)

    def average(self, i: Tensor, j: Tensor) -> Tensor:
        """c̄_ij with the last closed window folded in; 0 where i = j."""
        return self._read("average", i, j)

    def before(self, i: Tensor, j: Tensor) -> Tensor:
        """c̄_ij as it was before the last closed window: what s compares the rate with."""
        return self._read("before", i, j)

    def _read(self, what: str, i: Tensor, j: Tensor) -> Tensor:
        check_pair(i, j, self.n_latents)
        device, i, j = i.device, i.to(self.device), j.to(self.device)
        if self._state is None:
            return torch.zeros(i.shape, device=device)
        return getattr(self._state, what)(i, j).to(device)

    def weight(self, i: Tensor, j: Tensor, weighting: str = "instability") -> Tensor:
        """w_ij of the last closed window (0 before the first, and where i = j)."""
        pairs = PairStatistics(lambda what: self._read(what, i, j))
        weights = find_weighting(weighting).weight(pairs)
        return torch.where((i == j) | (self.windows_closed == 0), 0.0, weights)

    def relative_weights(
        self, tokens: Int[Tensor, " M"], weighting: str = "instability"
    ) -> Float[Tensor, "M K K"]:
        """w / c of the pairs of some tokens, by the slots of `last_window`; 0 where i = j.

        Σ_{i≠j} w_ij g_ij is the mean over the window's tokens of Σ (w / c)_ij g_ij over the pairs
        of a token (METHOD, an exact identity).

        Args:
            tokens: of the last window.
            weighting: a relative one.
        """
        state, window = self._state, self.last_window
        assert state is not None and window is not None

        def read(what: str) -> Tensor:
            if what == "rate":
                return state.token_rates(tokens)
            latents = window[tokens].clamp(min=0)
            i, j = torch.broadcast_tensors(latents[:, :, None], latents[:, None, :])
            return getattr(state, what)(i, j)

        pairs = PairStatistics(read)
        return find_weighting(weighting).function(pairs) * (pairs.rate > 0)

    def weight_rows(
        self, lo: int, hi: int, weighting: str = "instability"
    ) -> Float[Tensor, "rows F"]:
        """w_ij of the latents i from `lo` to `hi` with all j > i; 0 elsewhere."""
        if self.windows_closed == 0 or self._state is None:
            return torch.zeros(hi - lo, self.n_latents, device=self.device)
        state = self._state
        found = find_weighting(weighting)
        weights = found.weight(PairStatistics(lambda what: state.row_block(what, lo, hi)))
        return weights if found.relative else weights.triu(lo + 1)

    def weight_matrix(self, weighting: str = "instability") -> Float[Tensor, "F F"]:
        """Return all weights as one F x F matrix, zero diagonal, to look at."""
        upper = self.weight_rows(0, self.n_latents, weighting)
        return upper + upper.T

    def rate_matrix(self) -> Float[Tensor, "F F"]:
        """c of every pair in the last closed window, zero diagonal."""
        return self.weight_matrix("co_activation")

    def weight_sum(self, weighting: str = "instability") -> Float[Tensor, ""]:
        """Σ of w over all ordered pairs i ≠ j; computed once per window."""
        if self.windows_closed == 0 or self._state is None:
            return torch.zeros((), device=self.device)
        if weighting not in self._weight_sums:
            at_hand = find_weighting(weighting).total
            total = at_hand(self._state) if at_hand else self._sum_over_rows(weighting)
            self._weight_sums[weighting] = (2 * total).to(torch.float32)
        return self._weight_sums[weighting]

    def _sum_over_rows(self, weighting: str) -> Float[Tensor, ""]:
        """Σ_{i<j} w, float64, for a weighting that names no sums at hand."""
        size = max(1, PAIRS_AT_ONCE // self.n_latents)
        starts = range(0, self.n_latents, size)
        ends = (min(start + size, self.n_latents) for start in starts)
        blocks = zip(starts, ends, strict=True)
        sums = [self.weight_rows(lo, hi, weighting).sum(dtype=torch.float64) for lo, hi in blocks]
        return torch.stack(sums).sum()

    def pairs(self, min_count: float) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """i < j of the pairs with W max(c, c̄ before) >= min_count, for `min_count` > 0."""
        if self._state is None or self.last_window is None:
            return (torch.zeros(0, dtype=torch.int64, device=self.device),) * 2
        # Half a count lower: count / W * W is not always the count again.
        return self._state.at_least((min_count - 0.5) / self.last_window.shape[0])

    def count_histogram(self) -> Int[Tensor, " W+1"]:
        """Count the pairs with each count from 1 on in the last closed window; entry 0 is 0."""
        assert self._state is not None
        return self._state.histogram()

    def nbytes(self) -> int:
        """Bytes held: averages, totals, the last closed window with its index, and the open one."""
        state = sum(part.nbytes() for part in (self._state, self.totals) if part is not None)
        return state + sum(piece.nbytes for piece in self._open.pieces)

    def state_dict(self) -> dict[str, Any]:
        """Everything that later results depend on, mid-window too: tensors and integers.

        The averages are saved as they are stored; any storage on any device can load them.
        """
        state: dict[str, Any] = {
            "n_latents": self.n_latents,
            "windows_closed": self.windows_closed,
            "tokens_seen": self.tokens_seen,
        }
        if self._open.size:
            state["open"] = self._open.joined()
        if self._state is not None:
            state["averages"] = self._state.state_dict()
        if self.totals is not None:
            state["totals"] = self.totals.state_dict()
        if self.last_window is not None:
            state["last_window"] = self.last_window
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken, whatever storage and device it came from.

        The other options must be the same. With `auto` the storage is that of the saved state.

        Raises:
            ValueError: the state is of another number of latents, of a larger window, or of other
                rows of a shard.
        """
        if state["n_latents"] != self.n_latents:
            raise ValueError(
                f"state: is of {state['n_latents']} latents, must be of {self.n_latents}"
            )
        rows, opened = (
            None if name not in state else state[name].to(self.device)
            for name in ("last_window", "open")
        )
        if opened is not None and len(opened) >= self.window_size:
            told = f"has {len(opened)} tokens in its open window, must have fewer than window_size"
            raise ValueError(f"state: {told}={self.window_size}")
        number = int(state["windows_closed"])
        if "averages" in state:
            if self._state is None:  # `auto` keeps to what it chose before
                self.storage = "sparse" if "keys" in state["averages"] else "dense"
                self._state = self._new_state(self.storage)
            self._state.load_state_dict(state["averages"], rows, number)
        elif self._state is not None:
            self._state = self._new_state(self.storage)
        self.totals = None
        if self.totals_from is not None and "totals" in state:
            self.totals = self._new_totals(self.totals_from)
            self.totals.load_state_dict(state["totals"])
        self.windows_closed, self.tokens_seen = number, int(state["tokens_seen"])
        self._open, self._weight_sums = OpenWindow(), {}
        if opened is not None:
            self._open.add(opened)
