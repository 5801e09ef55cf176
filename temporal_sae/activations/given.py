"""From whatever a person has in hand to a source of activations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from temporal_sae.activations.arrays import ActivationArray
from temporal_sae.activations.batches import ActivationBatches
from temporal_sae.activations.files import ActivationFiles
from temporal_sae.activations.source import ActivationSource
from temporal_sae.errors import InvalidOption

ALLOWED = "a tensor, array or memory map [rows, d_in], an iterable of them, a path or a source"


def as_source(
    x: Any,
    device: str | torch.device = "cpu",
    held_out_fraction: float = 0.1,
    held_out_rows: int = 4096,
) -> ActivationSource:
    """Return a source of the activations x.

    Args:
        x: a tensor, array or memory map [..., d_in]; the path of files as `activations=files`
            takes it; an iterable of batches [n, d_in]; or a source, which is returned as it is.
        device: where batches shall be.
        held_out_fraction: share of an array, or of files, that is kept for evaluation.
        held_out_rows: rows of an iterable that are.

    Raises:
        InvalidOption, RunError: x is none of these, or holds no rows of floats.
    """
    if isinstance(x, ActivationSource):
        return x
    if isinstance(x, (str, Path)):
        return ActivationFiles(str(x), held_out_fraction=held_out_fraction, device=device)
    if isinstance(x, (Tensor, np.ndarray)):
        return ActivationArray(x, held_out_fraction=held_out_fraction, device=device)
    if isinstance(x, Iterable) and not isinstance(x, (Mapping, bytes)):
        return ActivationBatches(x, held_out_rows, device)
    raise InvalidOption("x", type(x).__name__, ALLOWED)
