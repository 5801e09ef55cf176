"""One step of Adam, with the decoder's constraint of unit rows built in."""

from __future__ import annotations

from temporal_sae.kernels.adam import naive
from temporal_sae.kernels.adam.naive import AdamStep, Sleep
from temporal_sae.kernels.dispatch import dispatched

squared_norm = dispatched(naive.squared_norm)
adam_ = dispatched(naive.adam_)
adam_rows_ = dispatched(naive.adam_rows_)

__all__ = ["AdamStep", "Sleep", "adam_", "adam_rows_", "squared_norm"]
