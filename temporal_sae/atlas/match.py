"""Latents of one atlas matched with those of another."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from temporal_sae.atlas.folder import Atlas
from temporal_sae.errors import RunError
from temporal_sae.sae import load_sae

LEAST_COSINE = 0.7
ROWS_AT_ONCE = 1024
SIMILAR = 1e-4  # cosines of one SAE, computed on two machines


class Matches(NamedTuple):
    """Latents of A and their counterparts in B, by those of A.

    Attributes:
        a, b: the latents, int64.
        cosine: of the two decoder directions; None where they go by their numbers.
    """

    a: np.ndarray
    b: np.ndarray
    cosine: np.ndarray | None = None

    @classmethod
    def by_number(cls, a: Atlas, b: Atlas) -> Matches:
        """Return every latent with that of the same number.

        Raises:
            RunError: there are more latents in one.
        """
        sizes = [len(atlas.latents) for atlas in (a, b)]
        if sizes[0] != sizes[1]:
            told = f"has {sizes[1]} latents, must have the {sizes[0]} of {a.folder}"
            raise RunError(f"{b.folder}: {told}; --match=cosine looks for counterparts")
        numbers = np.arange(sizes[0])
        return cls(numbers, numbers)

    @classmethod
    def by_cosine(cls, a: Tensor, b: Tensor) -> Matches:
        """Return the latents that are each other's nearest by decoder direction, if they are near.

        Args:
            a, b: unit rows, [d_sae, d_in].
        """
        (of_a, cosines), (of_b, _) = nearest(a, b), nearest(b, a)
        own = np.arange(len(a))
        is_mutual = (of_b[of_a] == own) & (cosines >= LEAST_COSINE)
        return cls(own[is_mutual], of_a[is_mutual], cosines[is_mutual])


def nearest(rows: Tensor, others: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the place of the nearest of other rows to each, and the cosine."""
    found = [(part @ others.T).max(dim=1) for part in rows.split(ROWS_AT_ONCE)]
    cosines, places = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    return places, cosines


def of_one_sae(a: Atlas, b: Atlas) -> bool:
    """Return whether the decoder directions of both have the same cosines with each other."""
    cosines = [atlas.latents["nearest_cosines"].combine_chunks().flatten() for atlas in (a, b)]
    ours, theirs = (part.to_numpy(zero_copy_only=False) for part in cosines)
    return len(ours) == len(theirs) and bool(np.allclose(ours, theirs, atol=SIMILAR))


def directions_of(atlas: Atlas, folder: Path | None, option: str) -> Tensor:
    """Return the unit decoder rows of an atlas, from the run or the SAE that it lies in.

    Args:
        atlas: of which they are.
        folder: of the SAE, or of its run; where the atlas lies, if it is None.
        option: that names such a folder.

    Raises:
        RunError: there is no SAE, or another than that of the atlas.
    """
    place = atlas.folder.resolve().parent if folder is None else folder
    path = place / "sae" if (place / "sae").is_dir() else place
    try:
        decoder = normalize(load_sae(path).W_dec.detach().float())
    except RunError as error:
        if folder is not None:
            raise
        told = "the SAE of this atlas is needed to find counterparts of its latents"
        raise RunError(f"{atlas.folder}: {told}; {option}=FOLDER names it") from error
    row = atlas.latents["nearest_by_cosine"].to_pylist()
    known = atlas.latents["nearest_cosines"].to_pylist()
    first = [latents[0] for latents in row if latents]
    if len(decoder) == len(row):
        found = (decoder[: len(first)] * decoder[first]).sum(1)
        expected = torch.tensor([cosines[0] for cosines in known if cosines])
        if torch.allclose(found, expected, atol=SIMILAR):
            return decoder
    raise RunError(f"{path}: is another SAE than that of {atlas.folder}; {option}=FOLDER names it")
