"""Write an SAE as a folder: `cfg.json` and `sae_weights.safetensors`.

The layout and the keys are those of SAELens 6, so `sae_lens.SAE.load_from_disk(folder)` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save

from temporal_sae.files import write_atomically

if TYPE_CHECKING:
    from temporal_sae.sae.base import SparseAutoencoder

WEIGHTS = "sae_weights.safetensors"
CONFIG = "cfg.json"
# The format written here. Without it SAELens takes the folder for an older one, and reads the
# metadata from another place.
FORMAT_VERSION = "6.0.0"


def save_sae(
    sae: SparseAutoencoder, folder: str | Path, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write the SAE; each file appears complete or not at all.

    Args:
        sae: what to save.
        folder: is created if missing.
        metadata: facts about where the SAE belongs: `model_name`, `hook_name`, `prepend_bos`, …
    """
    folder = Path(folder)
    tensors = {name: p.detach().cpu().contiguous() for name, p in sae.named_parameters()}
    config = {
        "architecture": sae.architecture,
        **sae.config(),
        "dtype": str(sae.W_dec.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": FORMAT_VERSION, **(metadata or {})},
    }
    write_atomically(folder / WEIGHTS, save(tensors))
    write_atomically(folder / CONFIG, json.dumps(config, indent=2) + "\n")
