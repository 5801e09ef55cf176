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
from jaxtyping import Int
from torch import Tensor

from temporal_sae.distributed import world_size
from temporal_sae.errors import check_bool, check_choice, check_int, check_number
from temporal_sae.machine import Planned
from temporal_sae.registry import component
from temporal_sae.tracker.alpha import AlphaRule
from temporal_sae.tracker.building import new_state
from temporal_sae.tracker.choice import check_storage, choose_storage, planned_bytes
from temporal_sae.tracker.permuted_stream import PermutedStream
from temporal_sae.tracker.processes import rows_of_all, shard_rows
from temporal_sae.tracker.reading import PairReader
from temporal_sae.tracker.state import PairState
from temporal_sae.tracker.totals import Totals, new_totals
from temporal_sae.tracker.warmup import WarmupCounts
from temporal_sae.tracker.window import OpenWindow

log = logging.getLogger(__name__)

STREAMS = ("shuffled", "ordered", "permuted")


@component("tracker")
class CoActivationTracker(PairReader):
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
        stream: which tokens the trainer feeds: `shuffled` (the batches the SAE trains on),
            `ordered` (text order, at the price of one more encoder pass) or `permuted`, the control
            for `ordered`: the same tokens, which `update` puts out of order by a pool, see
            `permuted_stream`. The tracker itself takes whatever `update` is given.
        permuted_tokens: of that pool; windows begin once it is full.
        seed: of that pool.
        prune_below: for `sparse`: forget averages below this whenever the pairs, once more than 67
            million, have grown by half; `error_bound` says what that can have cost. 0: never.
        sharded: each process keeps the averages of a range of rows, for a state that does not fit
            one device; reading weights then takes an exchange.
        totals_from: keep plain totals too, see `totals`, of the windows that begin with this token
            of the stream or a later one; 0 for all, None for no totals.
        average_from: the running averages begin anew with the first window that begins with this
            token or a later one, so that nothing is left in them of the latents of warm-up. There
            the window's number is 1 again, which matters to `init` and to `const`.

    Attributes:
        totals: `Totals` of all pairs; None without `totals_from` and before the first window.
        warmup: counts of latents before `totals_from`; None where that is 0 or None.
        tokens_seen: given to `update`, those among them that wait in a pool.

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
        average_from: int = 0,
        permuted_tokens: int = 65536,
        seed: int = 0,
    ) -> None:
        self.n_latents = check_int("n_latents", n_latents, 1)
        self.window_size = check_int("window_size", window_size, 1)
        self.alpha = AlphaRule(alpha_source, alpha_cap, alpha_scale, alpha_floor, init)
        self.prune_below = check_number("prune_below", prune_below)
        self.sharded = check_bool("sharded", sharded)
        self.totals_from = None if totals_from is None else check_int("totals_from", totals_from, 0)
        check_storage(storage, self.prune_below, self.sharded)
        self.average_from = check_int("average_from", average_from, 0)
        self.stream = check_choice("stream", stream, STREAMS)
        pool = PermutedStream(
            check_int("permuted_tokens", permuted_tokens, 1), check_int("seed", seed, 0)
        )
        self._pool = pool if stream == "permuted" else None
        self.device = torch.device(device)
        self.storage = storage
        self.windows_closed = 0
        self.tokens_seen = 0
        self._open = OpenWindow()
        self._forget_weights()
        self.totals: Totals | None = None
        self.warmup: WarmupCounts | None = None
        if self.totals_from:
            sizes = self.totals_from, self.window_size
            self.warmup = WarmupCounts(self.n_latents, *sizes, self.device)
        self._state = None if storage == "auto" else self._new_state(storage)

    def _new_state(self, storage: str) -> PairState:
        return new_state(
            storage, self.n_latents, self.alpha, self.device, self.sharded, self.prune_below
        )

    def planned_bytes(self, n_latents: int, k: int, device: torch.device) -> dict[str, Planned]:
        """Return the bytes of such a tracker for a run's SAE: averages and two windows.

        Args:
            n_latents: F of that SAE; this tracker may have been built with another.
            k: latents of a token at most.
            device: where it would live.
        """
        sizes = n_latents, k, self.window_size
        planned = planned_bytes(self.storage, *sizes, device, *self._shards_and_totals())
        return planned if self._pool is None else planned | self._pool.planned_bytes(k)

    def _shards_and_totals(self) -> tuple[int, bool]:
        """Return by how many the state is shared, and whether totals belong to it."""
        return world_size() if self.sharded else 1, self.totals_from is not None

    def _prepare(self, k: int) -> PairState:
        """Return the state; `auto` is settled once the number of active latents is known."""
        if self._state is None:
            sizes = self.n_latents, k, self.window_size
            self.storage, reason = choose_storage(
                self.storage, *sizes, self.device, *self._shards_and_totals()
            )
            log.info("tracker.storage: %s (%s)", self.storage, reason)
            self._state = self._new_state(self.storage)
        return self._state

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
        rows = rows_of_all(indices, self.n_latents, self.device)
        self._prepare(rows.shape[1])
        self.tokens_seen += rows.shape[0]
        if self._pool is not None:
            rows = self._pool.exchange(rows)
        while rows.shape[0]:
            room = self.window_size - self._open.size
            self._open.add(rows[:room].clone())  # a view would keep the whole batch
            rows = rows[room:]
            if self._open.size == self.window_size:
                self._close()

    def _close(self) -> None:
        self.windows_closed += 1
        rows = self._open.take()
        if self._window_number() == 1 and self.windows_closed > 1:
            self._state = self._new_state(self.storage)
        state = self._prepare(rows.shape[1])
        state.close(rows, self._window_number())
        self._forget_weights()
        if self.warmup is not None and self.windows_closed <= self.warmup.n_windows:
            self.warmup.add(rows)
        if self.totals_from is not None:
            if self.totals is None:
                self.totals = self._new_totals(self.totals_from)
            self.totals.add(state.closed(), (self.windows_closed - 1) * self.window_size)

    def tokens_before_weights(self, weighting: str = "instability") -> int:
        """Return the tokens that `update` must have been given for there to be weights."""
        found = self._weighting(weighting)
        windows = found.totals_windows or 1
        if found.totals_windows and self.warmup is not None:
            windows += self.warmup.n_windows
        return self.tokens_before(windows)

    def tokens_before(self, windows: int) -> int:
        """Return the tokens that `update` must have been given for so many windows to close."""
        return windows * self.window_size + (0 if self._pool is None else self._pool.n_rows)

    def _window_number(self) -> int:
        """Return the number of the last window, counted from where the averages have begun."""
        before = -(-self.average_from // self.window_size)  # windows that begin too early
        closed = self.windows_closed
        return closed - before if closed > before else closed

    def _new_totals(self, first_token: int) -> Totals:
        rows = shard_rows(self.n_latents) if self.sharded else (0, self.n_latents)
        sizes = self.storage, self.n_latents, first_token
        return new_totals(*sizes, rows, self.device, self.sharded)

    def nbytes(self) -> int:
        """Bytes held: averages, totals, the last closed window with its index, and the open one."""
        parts = self._state, self.totals, self._pool
        state = sum(part.nbytes() for part in parts if part is not None)
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
        if self.warmup is not None:
            state |= self.warmup.state_dict()
        if self._pool is not None:
            state["permuted"] = self._pool.state_dict()
        if self.last_window is not None:
            state["last_window"] = self.last_window
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken, whatever storage and device it came from.

        The other options must be the same. With `auto` the storage is that of the saved state.

        Raises:
            ValueError: the state is of another number of latents, of a larger window, of a pool of
                another size, or of other rows of a shard.
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
        self.windows_closed, self.tokens_seen = (
            int(state[name]) for name in ("windows_closed", "tokens_seen")
        )
        if "averages" in state:
            if self._state is None:  # `auto` keeps to what it chose before
                self.storage = "sparse" if "keys" in state["averages"] else "dense"
                self._state = self._new_state(self.storage)
            self._state.load_state_dict(state["averages"], rows, self._window_number())
        elif self._state is not None:
            self._state = self._new_state(self.storage)
        self.totals = None
        if self.totals_from is not None and "totals" in state:
            self.totals = self._new_totals(self.totals_from)
            self.totals.load_state_dict(state["totals"])
        if self.warmup is not None:
            self.warmup.load_state_dict(state)
        if self._pool is not None:
            self._pool.load_state_dict(state.get("permuted", {"arrived": 0}), self.device)
        self._open = OpenWindow()
        self._forget_weights()
        if opened is not None:
            self._open.add(opened)
