"""The tracker's state as dense matrices in plain torch: the oracle for every faster storage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temporal_sae.tracker.weights import pair_weight

PAIRS_AT_ONCE = 2**22


@dataclass(frozen=True)
class AlphaRule:
    """How fast the running average of a pair follows its rate (step 5 of the method).

    `pair`: min(cap, n_ij / scale); `union`: min(cap, (n_ii + n_jj - n_ij) / scale);
    `const`: max(1/m, floor) in window m, for every pair alike.
    """

    source: str
    cap: float
    scale: float
    floor: float

    def __call__(self, counts: Float[Tensor, "F F"], window: int) -> Tensor:
        """α of every pair, from the counts of window number `window` (1, 2, …)."""
        if self.source == "const":
            return counts.new_full((), max(1 / window, self.floor))
        if self.source == "union":
            alone = counts.diagonal()
            counts = alone[:, None] + alone[None, :] - counts
        return (counts / self.scale).clamp(max=self.cap)


def count_pairs(indices: Int[Tensor, "tokens k"], n_latents: int) -> Float[Tensor, "F F"]:
    """n_ij, the tokens in which both are active; n_ii counts those in which i is. Exact integers.

    Scatters the k x k pairs of each token, or multiplies the masks where k is so large that the
    product is the cheaper of the two; both give the same integers.
    """
    active = indices >= 0
    if indices.shape[1] * 25 > n_latents:
        mask = torch.zeros(indices.shape[0], n_latents + 1, device=indices.device)
        mask.scatter_(1, torch.where(active, indices, n_latents), 1.0)
        mask = mask[:, :n_latents]
        return mask.T @ mask  # exact: float32 holds integers to 2^24
    # Empty slots become latent F, whose row and column are cut off afterwards.
    size = n_latents + 1
    filled = torch.where(active, indices, n_latents)
    counts = torch.zeros(size**2, device=indices.device)  # not bincount, which waits for a GPU
    one = counts.new_ones(())
    for piece in filled.split(max(1, PAIRS_AT_ONCE // indices.shape[1] ** 2)):
        pairs = (piece[:, :, None] * size + piece[:, None, :]).flatten()
        counts.scatter_add_(0, pairs, one.expand(pairs.shape))
    return counts.view(size, size)[:n_latents, :n_latents]


class ReferenceStorage:
    """Rates c, the average before the last window, and the running average c̄, each [F, F] float32.

    Args:
        n_latents: F.
        alpha: the rule for α.
        init: `first`: c̄ starts as the first window's c; `zero`: as 0.
        device: where the matrices live.
    """

    def __init__(self, n_latents: int, alpha: AlphaRule, init: str, device: torch.device) -> None:
        self.n_latents, self.alpha, self.init, self.device = n_latents, alpha, init, device
        self.rates = torch.zeros(n_latents, n_latents, device=device)
        self.reference = torch.zeros_like(self.rates)
        self.averages = torch.zeros_like(self.rates)

    def close(self, indices: Int[Tensor, "tokens k"], window: int) -> None:
        """Fold in window number `window` (1, 2, …), whose tokens had these active latents."""
        counts = count_pairs(indices, self.n_latents)
        self.rates = counts / indices.shape[0]
        if window == 1 and self.init == "first":
            self.reference, self.averages = self.rates, self.rates
            return
        self.reference = self.averages
        self.averages = torch.lerp(self.averages, self.rates, self.alpha(counts, window))

    def rate(self, i: Tensor, j: Tensor) -> Tensor:
        return self.rates[i, j]

    def before(self, i: Tensor, j: Tensor) -> Tensor:
        """The running average as it was before the last closed window."""
        return self.reference[i, j]

    def average(self, i: Tensor, j: Tensor) -> Tensor:
        return self.averages[i, j]

    def weight_matrix(self, weighting: str) -> Float[Tensor, "F F"]:
        """w of every pair, zero diagonal."""
        weights = pair_weight(weighting, self.rates, self.reference, self.averages)
        return weights.fill_diagonal_(0)

    def pairs(self, min_rate: float) -> tuple[Tensor, Tensor]:
        """i < j of the pairs whose rate, in the last window or on average before, is that high."""
        high = torch.maximum(self.rates, self.reference) >= min_rate
        i, j = high.triu(1).nonzero(as_tuple=True)
        return i, j

    def nbytes(self) -> int:
        distinct = {m.data_ptr(): m.nbytes for m in (self.rates, self.reference, self.averages)}
        return sum(distinct.values())

    def state_dict(self) -> dict[str, Any]:
        return {"reference": self.reference, "averages": self.averages}

    def load_state_dict(self, state: dict[str, Any], last_window: Tensor | None) -> None:
        """Restore; the rates are counted again from the last closed window."""
        self.reference = state["reference"].to(self.device)
        self.averages = state["averages"].to(self.device)
        if last_window is not None:
            counts = count_pairs(last_window, self.n_latents)
            self.rates = counts / last_window.shape[0]
