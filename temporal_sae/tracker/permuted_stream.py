"""The control `tracker.stream=permuted`: the tokens of the stream in an order without time.

Every token that arrives takes the place of a random one of a pool, which is handed on. A token so
stays for as many others as the pool has places on average, and may stay for much longer: whatever
two tokens had to do with each other is gone within the pool, and a drift that is slower than the
pool is long is not. The latents of a token are those that the SAE had when it arrived.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import pad

from temporal_sae.machine import Planned

PLACES_AT_ONCE = 4096
BYTES_OF_A_LATENT = 4


class PermutedStream:
    """A pool of rows, by which a stream is put out of order.

    Nothing is handed on until it is full. The places are a function of the seed and of the number
    of the token, so that neither batches nor a resumed run change the order.

    Args:
        n_rows: of the pool.
        seed: of the places.

    Attributes:
        arrived: rows so far.
    """

    def __init__(self, n_rows: int, seed: int) -> None:
        self.n_rows, self.seed, self.arrived = n_rows, seed, 0
        self._pool: Tensor | None = None

    def exchange(self, rows: Int[Tensor, "tokens K"]) -> Int[Tensor, "handed_on K"]:
        """Take in rows, and return as many others once the pool is full.

        Args:
            rows: latents, -1 in the empty slots at the end.
        """
        pool = self._pool_for(rows)
        rows = pad(rows, (0, pool.shape[1] - rows.shape[1]), value=-1)
        room = max(0, self.n_rows - self.arrived)
        first, rows = rows[:room], rows[room:]
        pool[self.arrived : self.arrived + len(first)] = first
        self.arrived += len(first)
        if not len(rows):
            return rows
        handed_on = self._swap(pool, rows, self._places(len(rows)))
        self.arrived += len(rows)
        return handed_on

    def _pool_for(self, rows: Tensor) -> Tensor:
        """Return the pool, as wide as these rows at least."""
        if self._pool is None:
            self._pool = rows.new_full((self.n_rows, rows.shape[1]), -1)
        elif self._pool.shape[1] < rows.shape[1]:
            self._pool = pad(self._pool, (0, rows.shape[1] - self._pool.shape[1]), value=-1)
        return self._pool

    def _places(self, n: int) -> Int[np.ndarray, " n"]:
        """Return the places that the next n rows take."""
        first = self.arrived // PLACES_AT_ONCE
        last = (self.arrived + n - 1) // PLACES_AT_ONCE
        blocks = [
            np.random.default_rng((self.seed, block)).integers(self.n_rows, size=PLACES_AT_ONCE)
            for block in range(first, last + 1)
        ]
        start = self.arrived - first * PLACES_AT_ONCE
        places: np.ndarray = np.concatenate(blocks)[start : start + n]
        return places

    def _swap(self, pool: Tensor, rows: Tensor, places: np.ndarray) -> Tensor:
        """Exchange one row after the other; a place may come several times.

        All is settled on the CPU by the places alone, so that a GPU is not waited for.
        """
        order = np.argsort(places, kind="stable")
        again = np.zeros(len(order), bool)  # whose place is that of the row before in this order
        again[1:] = places[order[1:]] == places[order[:-1]]
        before = np.full(len(order), -1)  # the row that lies there by then; -1 for one of the pool
        before[order[1:][again[1:]]] = order[:-1][again[1:]]
        last = order[np.append(~again[1:], True)]
        inside, sources, kept, slots = (
            torch.from_numpy(part).to(rows.device)
            for part in (before >= 0, before.clip(0), last, places[last])
        )
        all_slots = torch.from_numpy(places).to(rows.device)
        handed_on = torch.where(inside[:, None], rows[sources], pool[all_slots])
        pool[slots] = rows[kept]
        return handed_on

    def planned_bytes(self, k: int) -> dict[str, Planned]:
        """Return the bytes of the pool with so many latents of a token at most."""
        keys = "tracker.permuted_tokens", "sae.k"
        return {"permuted tokens": Planned(self.n_rows * k * BYTES_OF_A_LATENT, keys)}

    def nbytes(self) -> int:
        """Bytes held."""
        return 0 if self._pool is None else self._pool.nbytes

    def state_dict(self) -> dict[str, Any]:
        """Return the pool and the number of rows that have arrived."""
        state: dict[str, Any] = {"arrived": self.arrived}
        return state if self._pool is None else state | {"pool": self._pool}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Continue exactly where `state` was taken.

        Raises:
            ValueError: the pool was of another size.
        """
        pool = state.get("pool")
        if pool is not None and len(pool) != self.n_rows:
            raise ValueError(f"state: has {len(pool)} rows in its pool, must have {self.n_rows}")
        self._pool = None if pool is None else pool.to(device, copy=True)
        self.arrived = int(state["arrived"])
