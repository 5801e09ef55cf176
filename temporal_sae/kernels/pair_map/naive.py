"""The map from pairs to averages in plain torch: sorted keys and their values."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor


class PairMap:
    """A float32 value for each of the pairs that have one: int64 keys ≥ 0, kept in order.

    Args:
        device: where keys and values live.
        key_bits: every key is below 2^key_bits.
    """

    def __init__(self, device: torch.device, key_bits: int) -> None:
        self.keys = torch.empty(0, dtype=torch.int64, device=device)
        self.values = torch.empty(0, device=device)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def at_most(self) -> int:
        """A number never less than that of the keys, known without waiting."""
        return len(self)

    def lookup(self, keys: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Return the values of some keys, 0 where there is none."""
        if not len(self.keys):
            return torch.zeros(keys.shape, device=keys.device)
        place = torch.searchsorted(self.keys, keys).clamp_(max=len(self.keys) - 1)
        return torch.where(self.keys[place] == keys, self.values[place], 0.0)

    def store(self, keys: Int[Tensor, " n"], values: Float[Tensor, " n"]) -> None:
        """Set values ≥ 0 of distinct keys, new ones or not; a key of -1 is passed over."""
        keys, values = keys[keys >= 0], values[keys >= 0]
        kept = ~torch.isin(self.keys, keys)
        keys, order = torch.cat([self.keys[kept], keys]).sort()
        self.keys, self.values = keys, torch.cat([self.values[kept], values])[order]

    def items(self) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
        """Return all keys in order, and their values."""
        return self.keys, self.values

    def pieces(self) -> Iterator[tuple[Int[Tensor, " n"], Float[Tensor, " n"]]]:
        """Yield all keys and their values, some at a time, in no order."""
        yield self.keys, self.values

    def update_all(self, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Replace all values by `change(keys, values)`, which looks at each pair alone."""
        self.values = change(self.keys, self.values)

    def drop_below(self, bound: float) -> None:
        """Forget the keys whose value is below a bound."""
        kept = self.values >= bound
        self.keys, self.values = self.keys[kept], self.values[kept]

    def nbytes(self) -> int:
        """Return the bytes held."""
        return self.keys.nbytes + self.values.nbytes
