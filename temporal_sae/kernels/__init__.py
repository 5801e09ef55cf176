"""The few operations that tracker, penalty and step spend their time in, a folder a group.

`windows` counts pairs of latents, `averages` folds the counts into running averages, `pair_map`
keeps averages of the pairs that occur, `overlap` sums overlaps and their gradients, `selection`
picks latents, `sparse_products` multiplies by the few active ones, `adam` moves the weights.

In each folder `naive` says in plain torch what the operations mean and runs on any device; `cpu`
does the same in numba on all cores; `triton` on CUDA, without waiting for the device. Counts agree
to the bit, and so do averages, since every version rounds each step of the formula alike. Callers
use the names of the folder itself, `windows.pair_counts(index, i, j)`, which run the version of the
device that the first argument is on.
"""

from __future__ import annotations

from temporal_sae.kernels.cache_folder import ensure_cache
from temporal_sae.kernels.dispatch import has_compiled_kernels

ensure_cache()

__all__ = ["has_compiled_kernels"]
