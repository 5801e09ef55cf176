"""Places of pairs, in a packed triangle and in a list; saved averages, which any storage reads."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from temporal_sae.kernels.averages import pairs_before

PAIRS_AT_ONCE = 2**24


def key_bits(n_latents: int) -> int:
    """Bits of one latent's number in a key i · 2^bits + j."""
    return max(1, (n_latents - 1).bit_length())


def latents_of(keys: Tensor, n_latents: int) -> tuple[Tensor, Tensor]:
    """i and j of the keys of pairs."""
    bits = key_bits(n_latents)
    return keys >> bits, keys & ((1 << bits) - 1)


def pairs_at(places: Tensor, n_latents: int, lo: int, hi: int) -> tuple[Tensor, Tensor]:
    """i < j, int64, of places in the packed triangle of the rows `lo` to `hi`."""
    rows = torch.arange(lo, hi, device=places.device)
    starts = rows * n_latents - rows * (rows + 1) // 2 - pairs_before(n_latents, lo)
    i = torch.searchsorted(starts, places, right=True) - 1
    return i + lo, places - starts[i] + i + lo + 1


@lru_cache(maxsize=4)
def upper_pairs(lo: int, hi: int, n_latents: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return i and j > i, int64, of all pairs of the rows `lo` to `hi`, in order.

    Shared by all who ask: not to be written to.
    """
    i, j = torch.triu_indices(hi - lo, n_latents, lo + 1, device=device)
    return i + lo, j


def saved_pairs(state: dict[str, Any], n_latents: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """i < j and c̄ of all pairs in a saved state that have an average, some at a time."""
    values = state["averages"]
    if "keys" in state:
        for keys, part in zip(
            state["keys"].split(PAIRS_AT_ONCE), values.split(PAIRS_AT_ONCE), strict=True
        ):
            yield *latents_of(keys, n_latents), part
        return
    for n, part in enumerate(values.split(PAIRS_AT_ONCE)):
        places = part.nonzero().squeeze(1)
        i, j = pairs_at(places + n * PAIRS_AT_ONCE, n_latents, state["lo"], state["hi"])
        yield i, j, part[places]


def check_rows(state: dict[str, Any], lo: int, hi: int) -> None:
    """Raise ValueError unless a saved state holds all pairs of the rows `lo` to `hi`."""
    if not state["lo"] <= lo <= hi <= state["hi"]:
        held = f"{state['lo']} to {state['hi']}"
        raise ValueError(f"state: holds rows {held}, must hold {lo} to {hi}")
