"""The co-activation tracker: which latents fire together, and how that differs from before.

Tokens arrive in stream order and are cut into windows of `window_size`, wherever the batches
happen to end. When a window closes, the rates c of its pairs are compared with their running
averages c̄, and the averages take in the window. Until the next closing the pair weights

    w_ij = c_ij (1 + s_ij),    s_ij = |c_ij - c̄_ij| / max(c_ij, c̄_ij)

hold, with c̄ as it was before the window.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.errors import check_choice, check_int, check_number
from temporal_sae.tracker.reference import AlphaRule, ReferenceStorage
from temporal_sae.tracker.weights import Weighting, pair_weight

STREAMS = ("shuffled", "ordered")


class OpenWindow:
    """The tokens of the window that is not yet full, as pieces of the batches they came in."""

    def __init__(self) -> None:
        self.pieces: list[Tensor] = []
        self.size = 0

    def add(self, indices: Int[Tensor, "tokens k"]) -> None:
        self.pieces.append(indices)
        self.size += indices.shape[0]

    def take(self) -> Int[Tensor, "tokens k"]:
        """All tokens as one tensor, as wide as the widest piece; the window is empty afterwards."""
        width = max(p.shape[1] for p in self.pieces)
        padded = [
            torch.nn.functional.pad(p, (0, width - p.shape[1]), value=-1) for p in self.pieces
        ]
        self.pieces, self.size = [], 0
        return torch.cat(padded)


class CoActivationTracker:
    """Windowed co-activation rates of all pairs of latents and their running averages.

    Args:
        n_latents: F, the number of latents.
        window_size: W, tokens a window.
        alpha_cap: largest step of the running average, in (0, 1]; for `pair` and `union`.
        alpha_scale: count at which the step would reach 1 without the cap; for `pair` and `union`.
        alpha_source: `pair` (the pair's own count; never forgets a pair that stopped), `union`
            (tokens in which either fires), or `const` (max(1/m, alpha_floor) in window m).
        alpha_floor: smallest step of `const`.
        init: `first` starts the averages at the first window's rates, `zero` at 0.
        storage: `reference` (dense F x F float32); `auto` picks a storage, today always that one.
        device: where the state lives.
        stream: which tokens the trainer feeds: `shuffled` (the batches the SAE trains on) or
            `ordered` (text order, at the price of one more encoder pass). The tracker itself takes
            whatever `update` is given.

    Raises:
        InvalidOption: an option is out of range.
    """

    # Whether w / c of a pair is a function of its rates, as sampling the window's tokens needs.
    weights_follow_window = True

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
    ) -> None:
        self.n_latents = check_int("n_latents", n_latents, 1)
        self.window_size = check_int("window_size", window_size, 1)
        alpha = AlphaRule(
            check_choice("alpha_source", alpha_source, ("pair", "union", "const")),
            check_number("alpha_cap", alpha_cap, maximum=1.0, above=True),
            check_number("alpha_scale", alpha_scale, above=True),
            check_number("alpha_floor", alpha_floor, maximum=1.0),
        )
        check_choice("init", init, ("first", "zero"))
        check_choice("storage", storage, ("auto", "reference"))
        self.stream = check_choice("stream", stream, STREAMS)
        self.device = torch.device(device)
        self.storage = ReferenceStorage(n_latents, alpha, init, self.device)
        self.windows_closed = 0
        self.tokens_seen = 0
        self.last_window: Int[Tensor, "W k"] | None = None
        self._open = OpenWindow()
        self._weight_sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, indices: Int[Tensor, "tokens k"]) -> None:
        """Take in the active latents of the next tokens, in stream order.

        Args:
            indices: distinct latents of each token, in any order; -1 marks an empty slot.
        """
        indices = indices.to(self.device)
        self.tokens_seen += indices.shape[0]
        while indices.shape[0]:
            room = self.window_size - self._open.size
            self._open.add(indices[:room])
            indices = indices[room:]
            if self._open.size == self.window_size:
                self._close()

    def _close(self) -> None:
        self.windows_closed += 1
        self.last_window = self._open.take()
        self.storage.close(self.last_window, self.windows_closed)
        self._weight_sums = {}

    def rate(self, i: Tensor, j: Tensor) -> Tensor:
        """c_ij of the last closed window; i and j are int tensors of one shape."""
        return self.storage.rate(i, j)

    def average(self, i: Tensor, j: Tensor) -> Tensor:
        """c̄_ij with the last closed window folded in."""
        return self.storage.average(i, j)

    def before(self, i: Tensor, j: Tensor) -> Tensor:
        """c̄_ij as it was before the last closed window: what s compares the rate with."""
        return self.storage.before(i, j)

    def weight(self, i: Tensor, j: Tensor, weighting: Weighting = "instability") -> Tensor:
        """w_ij of the last closed window (0 before the first, and where i = j)."""
        rate, before, average = self.rate(i, j), self.before(i, j), self.average(i, j)
        return torch.where(i == j, 0.0, pair_weight(weighting, rate, before, average))

    def rate_matrix(self) -> Float[Tensor, "F F"]:
        """c of every pair in the last closed window, zero diagonal."""
        return self.storage.weight_matrix("none")

    def weight_matrix(self, weighting: Weighting = "instability") -> Float[Tensor, "F F"]:
        """All weights at once, zero diagonal."""
        return self.storage.weight_matrix(weighting)

    def weight_sum(self, weighting: Weighting = "instability") -> Float[Tensor, ""]:
        """Σ of w over all ordered pairs i ≠ j; computed once a window."""
        if weighting not in self._weight_sums:
            self._weight_sums[weighting] = self.weight_matrix(weighting).sum()
        return self._weight_sums[weighting]

    def pairs(self, min_count: float) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """i < j of the pairs with W max(c, c̄ before) >= min_count, for `min_count` > 0."""
        size = self.window_size if self.last_window is None else self.last_window.shape[0]
        # Half a count lower: count / W * W is not always the count again.
        return self.storage.pairs((min_count - 0.5) / size)

    def nbytes(self) -> int:
        """Bytes held: the state of the pairs, the last closed window and the open one."""
        windows = [*self._open.pieces] + ([] if self.last_window is None else [self.last_window])
        return self.storage.nbytes() + sum(w.nbytes for w in windows)

    def state_dict(self) -> dict[str, Any]:
        """Everything that later results depend on, mid-window too: tensors and integers."""
        state: dict[str, Any] = {
            "windows_closed": self.windows_closed,
            "tokens_seen": self.tokens_seen,
            "storage": self.storage.state_dict(),
            "open": {str(n): piece for n, piece in enumerate(self._open.pieces)},
        }
        if self.last_window is not None:
            state["last_window"] = self.last_window
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken; the options must be the same."""
        self.windows_closed = int(state["windows_closed"])
        self.tokens_seen = int(state["tokens_seen"])
        last = state.get("last_window")
        self.last_window = None if last is None else last.to(self.device)
        self.storage.load_state_dict(state["storage"], self.last_window)
        self._open, self._weight_sums = OpenWindow(), {}
        for n in range(len(state.get("open", {}))):
            self._open.add(state["open"][str(n)].to(self.device))
