"""π of `loss.permuted`: the latents by other names, drawn from a seed."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from temporal_sae.latents import Latents
from temporal_sae.loss.pairs import PairWeights, permutation


@lru_cache(maxsize=4)
def relabelling(n: int, seed: int, device: torch.device) -> Int[Tensor, " n"]:
    """Return π of `permuted=true`.

    Drawn on the CPU, so that a run goes on with the same one on a GPU.
    """
    return permutation(n, seed, 0, torch.device("cpu")).to(device)


def within_bins(bins: Int[Tensor, " n"], seed: int) -> Int[Tensor, " n"]:
    """Return a permutation π with bins[π(i)] = bins[i], drawn on the CPU from the seed.

    Args:
        bins: of each latent, in any numbers.
    """
    own = bins.cpu()
    drawn = permutation(len(own), seed, 0, own.device)
    order = torch.empty_like(drawn)
    # Both sides list the bins one after the other; the right one each in an order by chance.
    order[own.argsort(stable=True)] = drawn[own[drawn].argsort(stable=True)]
    return order.to(bins.device)


class Relabelling:
    """π of `permuted`, which a run asks for at every step.

    Args:
        permuted: `false`, `true` or `rates`.
        seed: by which π is drawn.
    """

    def __init__(self, permuted: bool | str, seed: int) -> None:
        self.permuted, self.seed = permuted, seed
        self._drawn: tuple[Tensor, Tensor] | None = None  # counts of the warm-up, and π by them

    def order(self, tracker: PairWeights, device: torch.device) -> Int[Tensor, " F"] | None:
        """Return π, or None where the latents keep their names.

        With `rates` warm-up must be over, see `is_drawn`.
        """
        if self.permuted is False:
            return None
        if self.permuted is True:
            return relabelling(tracker.n_latents, self.seed, device)
        warmup = tracker.warmup
        assert warmup is not None
        if self._drawn is None or self._drawn[0] is not warmup.n:
            bins = warmup.bins()
            assert warmup.n is not None
            self._drawn = warmup.n, within_bins(bins, self.seed).to(device)
        return self._drawn[1]

    def is_drawn(self, tracker: PairWeights) -> bool:
        """Return True where π can be had: always, but with `rates` once warm-up is over."""
        if self.permuted != "rates":
            return True
        warmup = tracker.warmup
        return warmup is not None and tracker.windows_closed >= warmup.n_windows


def inverse(order: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Return the place of each latent in a permutation."""
    places = torch.arange(len(order), device=order.device)
    return torch.empty_like(order).scatter_(0, order, places)


def relabelled(latents: Latents, names: Int[Tensor, " F"]) -> Latents:
    """Return the same values under other names, `names[i]` for latent i; empty slots stay -1."""
    indices = names[latents.indices.clamp(min=0).long()]
    return Latents(latents.values, torch.where(latents.indices >= 0, indices, -1))
