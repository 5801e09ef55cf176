"""Write an SAE as a folder: `cfg.json` and `sae_weights.safetensors`.

The layout and the keys are those of SAELens 6, so `sae_lens.SAE.load_from_disk(folder)` reads
what is of an architecture that SAELens has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from temporal_sae.files import write_atomically

WEIGHTS = "sae_weights.safetensors"
CONFIG = "cfg.json"
SAE_LENS = ("gated", "jumprelu", "standard", "topk")  # architectures that SAELens has, too
# The format written here. Without it SAELens takes the folder for an older one, and reads the
# metadata from another place.
FORMAT_VERSION = "6.0.0"


def write_folder(
    folder: str | Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
) -> None:
    """Write both files; each appears complete or not at all.

    Args:
        folder: is created if missing.
        config: `architecture` and the arguments that define the function.
        tensors: the parameters by name.
        metadata: facts about where the SAE belongs: `model_name`, `hook_name`, `prepend_bos`, …
    """
    content = {
        **config,
        "dtype": str(tensors["W_dec"].dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": FORMAT_VERSION, **metadata},
    }
    weights = {
        name: t.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, t in tensors.items()
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_atomically(Path(folder) / WEIGHTS, save(weights))
    write_atomically(Path(folder) / CONFIG, json.dumps(content, indent=2) + "\n")
