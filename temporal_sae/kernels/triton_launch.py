"""Start Triton kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BLOCK = 256  # entries of a list that one program works on


def n_blocks(listed: Tensor) -> int:
    """Return how many programs it takes to go through a list."""
    return -(-listed.numel() // BLOCK)


def launch(kernel: Any, n_programs: int, *arguments: Any, **options: Any) -> None:
    """Run a kernel on the device of its first argument.

    Every operation is rounded on its own, unless `enable_fp_fusion` is among the options.
    """
    if n_programs:
        with torch.cuda.device_of(arguments[0]):
            kernel[(n_programs,)](*arguments, **{"enable_fp_fusion": False, **options})
