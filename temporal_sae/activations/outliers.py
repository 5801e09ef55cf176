"""Rows of activations with a norm far beyond the usual: counted, and kept, dropped or clipped.

Attention sinks and a few massive activations can be many times as long as any other row. They then
make up most of √E‖x‖², by which everything is divided, and most of the reconstruction loss.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from temporal_sae.activations.rows import Rows

log = logging.getLogger(__name__)

OUTLIERS = ("keep", "drop", "clip")


class Outliers:
    """Keep, drop or clip rows longer than a limit, which is measured once.

    Args:
        option: `keep`, `drop` or `clip` (scale down to the limit).
        factor: the limit over the median norm.
        device: where the rows are.
    """

    def __init__(self, option: str, factor: float, device: str | torch.device = "cpu") -> None:
        self.option, self.factor = option, factor
        self.limit: float | None = None
        self.n_rows = 0
        self._n_outliers = torch.zeros((), dtype=torch.int64, device=device)

    def measure(self, chunks: Sequence[Float[Tensor, "n d_in"]]) -> None:
        """Set the limit by some rows, and log how many of them are beyond it.

        Where more than half of the rows are zero there is no usual norm, and no limit.
        """
        norms = torch.cat([row_norms(rows) for rows in chunks])
        median = float(norms.median())
        self.limit = self.factor * median if median > 0 else math.inf
        beyond = int((norms > self.limit).sum())
        log.info(
            "activations.outliers=%s: limit %.4g, %g times the median norm; %d of the first %d "
            "rows are beyond it",
            *(self.option, self.limit, self.factor, beyond, len(norms)),
        )
        if beyond and self.option == "keep":
            log.warning(
                "activations.outliers=keep: rows of up to %.4g times the median norm take part in "
                "training; drop leaves them out, clip shortens them",
                float(norms.max()) / median,
            )

    def treat(self, rows: Rows) -> Rows:
        """Return the rows as training shall see them: the same ones, fewer, or shorter.

        Only `drop` waits for the device, since the number of rows it leaves depends on them.
        """
        assert self.limit is not None, "the limit has not been measured"
        norms = row_norms(rows.x)
        beyond = norms > self.limit
        self.n_rows += len(rows)
        self._n_outliers = self._n_outliers + beyond.sum()  # a saved state keeps its own
        if self.option == "drop":
            return rows[~beyond]
        if self.option == "clip":
            shrink = torch.where(beyond, self.limit / norms, 1.0)
            return replace(rows, x=(rows.x * shrink[:, None]).to(rows.x.dtype))
        return rows

    def share(self) -> Float[Tensor, ""]:
        """Outliers among all rows so far, whatever was done with them; stays on the device."""
        return self._n_outliers / max(1, self.n_rows)

    def state_dict(self) -> dict[str, Any]:
        """Return the limit and both counts."""
        return {"limit": self.limit, "n_rows": self.n_rows, "n_outliers": self._n_outliers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        self.limit, self.n_rows = state["limit"], int(state["n_rows"])
        self._n_outliers = state["n_outliers"].to(self._n_outliers.device)


def row_norms(rows: Float[Tensor, "n d_in"]) -> Float[Tensor, " n"]:
    """Norms in float32, whatever the rows are in: squares overflow in float16."""
    return torch.linalg.vector_norm(rows, dim=-1, dtype=torch.float32)
