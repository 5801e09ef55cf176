"""The choice of a tracker's storage: bytes that each would need against those that are free."""

from __future__ import annotations

import torch

from temporal_sae.errors import InvalidOption, check_choice
from temporal_sae.machine import Planned, free_memory

STORAGES = ("auto", "dense", "sparse", "reference")
BYTES_OF_A_SPARSE_PAIR = 10
BYTES_OF_TOTALS = 16  # of a pair, dense
BYTES_OF_SPARSE_TOTALS = 35
BYTES_OF_A_SLOT = 12  # a latent, and where it is found again
WINDOWS_TO_EXPECT = 100
SHARE_FOR_DENSE = 0.25
GIB = 2**30


def dense_bytes(n_latents: int, with_totals: bool = False) -> int:
    """Bytes of the packed triangle of averages, and of totals."""
    return (4 + BYTES_OF_TOTALS * with_totals) * (n_latents * (n_latents - 1) // 2)


def sparse_bytes(n_latents: int, k: int, window_size: int, with_totals: bool = False) -> int:
    """Bytes of the pairs that a hundred windows bring at most, none of them twice."""
    n_pairs = min(n_latents * (n_latents - 1), WINDOWS_TO_EXPECT * window_size * k * (k - 1)) // 2
    return (BYTES_OF_A_SPARSE_PAIR + BYTES_OF_SPARSE_TOTALS * with_totals) * n_pairs


def storage_bytes(
    storage: str, n_latents: int, k: int, window_size: int, with_totals: bool = False
) -> int:
    """Bytes that a storage will hold; for `sparse` after a hundred windows at most."""
    if storage == "sparse":
        return sparse_bytes(n_latents, k, window_size, with_totals)
    triangles = dense_bytes(n_latents, with_totals)
    if storage == "dense":
        return triangles
    return 6 * 4 * n_latents**2 + triangles - dense_bytes(n_latents)


def window_bytes(
    storage: str, n_latents: int, k: int, window_size: int, device: torch.device
) -> int:
    """Bytes of a window's tokens with the index from a latent to its tokens."""
    labels = min(n_latents, window_size * k) if storage == "sparse" else n_latents
    tokens_a_byte = 1 if device.type == "cuda" else 8
    return window_size * (BYTES_OF_A_SLOT * k + labels // tokens_a_byte)


def choose_storage(
    storage: str,
    n_latents: int,
    k: int,
    window_size: int,
    device: torch.device,
    shards: int = 1,
    with_totals: bool = False,
) -> tuple[str, str]:
    """Return the storage to use for `auto`, and why.

    Dense where the triangle takes at most a quarter of the free memory: it is the fastest. Beyond
    that sparse, unless so many pairs occur that the triangle is the smaller of the two and fits.
    Of `shards` that share the state, each holds one part.
    """
    check_choice("storage", storage, STORAGES)
    found = free_memory(device)
    free = None if found is None else found.n_bytes
    dense = dense_bytes(n_latents, with_totals) // shards
    sparse = sparse_bytes(n_latents, k, window_size, with_totals) // shards
    sizes = f"dense {dense / GIB:.2f} GiB, sparse up to {sparse / GIB:.2f} in 100 windows"
    sizes += "" if free is None else f", free {free / GIB:.1f}"
    if storage != "auto":
        return storage, f"as asked; {sizes}"
    if free is None or dense <= SHARE_FOR_DENSE * free:
        return "dense", f"fits well; {sizes}"
    if dense <= sparse and dense <= free:
        return "dense", f"most pairs will occur; {sizes}"
    return "sparse", f"dense would take too much; {sizes}"


def planned_bytes(
    storage: str,
    n_latents: int,
    k: int,
    window_size: int,
    device: torch.device,
    shards: int,
    with_totals: bool,
) -> dict[str, Planned]:
    """Return the bytes of averages, totals and two windows; the arguments as above."""
    sizes = n_latents, k, window_size
    storage, _ = choose_storage(storage, *sizes, device, shards, with_totals)
    # The pairs of `sparse` are not known yet; they come as they are seen.
    pairs = 0
    if storage != "sparse":
        pairs = storage_bytes(storage, *sizes, with_totals) // shards
    of_windows = 2 * window_bytes(storage, *sizes, device)
    keys = ("tracker.window_size", "sae.k") if of_windows > pairs else ("sae.d_sae",)
    return {"tracker": Planned(of_windows + pairs, keys)}


def check_storage(storage: str, prune_below: float, sharded: bool) -> None:
    """Raise InvalidOption for an unknown storage, or one that cannot be pruned or sharded."""
    check_choice("storage", storage, STORAGES)
    if prune_below > 0 and storage in ("dense", "reference"):
        raise InvalidOption("prune_below", prune_below, f"0 with storage={storage}")
    if sharded and storage == "reference":
        raise InvalidOption("sharded", sharded, "false with storage=reference")
