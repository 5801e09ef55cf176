"""Stability: directions of latents and pairs over training, and in other SAEs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.functional import normalize

from temporal_sae.atlas import loops
from temporal_sae.atlas.relations import RELATIVES
from temporal_sae.errors import RunError
from temporal_sae.kernels.threads import on_threads
from temporal_sae.sae import load_sae
from temporal_sae.training.snapshots import NAME

ROWS_AT_ONCE = 1024
LISTED = ("nearest_by_cosine", "nearest_by_phi", *RELATIVES)

SCHEMA = pa.schema(
    [*((name, pa.int32()) for name in ("i", "j")), ("snapshot_cosines", pa.list_(pa.float32()))]
)


def snapshots_in(run: Path) -> list[Path]:
    """Return the folders of the SAEs that a run kept, by step."""
    found = [path for path in (run / "snapshots").glob("step_*") if NAME.fullmatch(path.name)]
    return sorted(found)


def over_training(decoder: Tensor, folders: Sequence[Path]) -> dict[str, object]:
    """Return the cosine of each decoder direction with its own at earlier steps.

    Args:
        decoder: unit rows, [d_sae, d_in].
        folders: of SAEs with the same latents.

    Raises:
        RunError: one has other sizes.
    """
    if not folders:
        return {}
    cosines = np.empty((len(decoder), len(folders)), np.float32)
    for column, folder in enumerate(folders):
        cosines[:, column] = (decoder * earlier(folder, decoder)).sum(1).numpy()
    return {"snapshot_cosines": list(cosines)}


def earlier(folder: Path, decoder: Tensor) -> Tensor:
    """Return the unit decoder rows of the same latents at an earlier step.

    Raises:
        RunError: the SAE has other sizes.
    """
    other = directions_of(folder, decoder)
    if other.shape != decoder.shape:
        told = f"[{len(other)}, {other.shape[1]}], not [{len(decoder)}, {decoder.shape[1]}]"
        raise RunError(f"{folder}: its decoder is {told}")
    return other


def overlap_table(latents: pa.Table, decoder: Tensor, folders: Sequence[Path]) -> pa.Table:
    """Return the decoder cosine of pairs at earlier steps, by i and then j.

    Args:
        latents: the table of latents; the pairs are those that it lists.
        decoder: unit rows, [d_sae, d_in].
        folders: of SAEs with the same latents.

    Raises:
        RunError: one has other sizes.
    """
    i, j = listed_pairs(latents)
    cosines = np.empty((len(folders), len(i)), np.float32)
    for then, folder in zip(cosines, folders, strict=True):
        rows = earlier(folder, decoder).contiguous().numpy()
        on_threads(loops.products, rows, i, j, then)
    return pa.table({"i": i, "j": j, "snapshot_cosines": list(cosines.T)}, SCHEMA)


def listed_pairs(latents: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs i < j of each latent and those that its row lists, each once, int32."""
    found = []
    for name in LISTED:
        column = latents[name].combine_chunks()
        of = np.repeat(np.arange(len(column)), np.diff(column.offsets.to_numpy()))
        found.append(np.stack([of, column.flatten().to_numpy()], 1))
    pairs = np.unique(np.sort(np.concatenate(found), 1), axis=0).astype(np.int32)
    return np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])


def across_seeds(decoder: Tensor, folders: Sequence[Path]) -> dict[str, object]:
    """Return, for each latent and each other SAE, the latent with the nearest decoder direction.

    Args:
        decoder: unit rows, [d_sae, d_in].
        folders: of the other SAEs.

    Raises:
        RunError: one takes rows of another width.
    """
    if not folders:
        return {}
    latents = np.empty((len(decoder), len(folders)), np.int32)
    cosines = np.empty((len(decoder), len(folders)), np.float32)
    for column, folder in enumerate(folders):
        other = directions_of(folder, decoder)
        for lo in range(0, len(decoder), ROWS_AT_ONCE):
            best = (decoder[lo : lo + ROWS_AT_ONCE] @ other.T).max(1)
            cosines[lo : lo + ROWS_AT_ONCE, column] = best.values.numpy()
            latents[lo : lo + ROWS_AT_ONCE, column] = best.indices.numpy()
    return {"seed_latents": list(latents), "seed_cosines": list(cosines)}


@torch.no_grad()
def directions_of(folder: Path, decoder: Tensor) -> Tensor:
    """Return the unit decoder rows of a saved SAE, on the CPU.

    Args:
        folder: of the SAE, or of a run that has trained one.
        decoder: of the SAE to be compared, [d_sae, d_in].

    Raises:
        RunError: it takes rows of another width.
    """
    own = folder / "sae" if (folder / "run.json").exists() else folder
    rows = normalize(load_sae(own).weights()["W_dec"].float())
    if rows.shape[1] != decoder.shape[1]:
        raise RunError(f"{own}: has d_in={rows.shape[1]}, not {decoder.shape[1]}")
    return rows
