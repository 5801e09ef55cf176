"""The base of sources whose rows come with the features that are known to be in them."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch

from temporal_sae.activations.rows import Rows
from temporal_sae.activations.source import ActivationSource
from temporal_sae.data import Split
from temporal_sae.latents import Latents

BLOCK_ROWS = 4096  # that are drawn at once; documents end with them


class KnownActivations(ActivationSource):
    """Rows without end in blocks, each of which is drawn from its number.

    A subclass makes `truth`, whose `directions`, `parent_of`, `true_pairs` and `spurious_pairs` are
    those of a `World`, when it is opened.
    """

    @abstractmethod
    def block(self, split: Split, seed: int, number: int) -> tuple[Rows, Latents]:
        """Return the rows of a block and what fires in them, the same whenever asked for."""

    @property
    def rows_at_once(self) -> int:
        """Rows of a block."""
        return BLOCK_ROWS

    def check(self, split: Split) -> None:
        """There are rows without end."""

    def reader(self, seed: int) -> KnownReader:
        """Return rows in the order of their documents, without end."""
        self.open()
        return KnownReader(self, seed)

    def held_out(self, n_sequences: int, batch_sequences: int, seed: int = 0) -> Iterator[Rows]:
        """Yield rows of other documents than those that are trained on."""
        for rows, _ in self.held_out_with_truth(n_sequences, batch_sequences, seed):
            yield rows

    def held_out_with_truth(
        self, n_sequences: int, batch_sequences: int, seed: int = 0
    ) -> Iterator[tuple[Rows, Latents]]:
        """Yield the same rows, each with the features that fire in it and their values."""
        self.open()
        n_left, number = n_sequences * self.sequence_rows, 0
        at_once = batch_sequences * self.sequence_rows
        while n_left > 0:
            rows, features = self.block("held_out", seed, number)
            for start in range(0, min(n_left, len(rows)), at_once):
                part = slice(start, min(start + at_once, n_left, len(rows)))
                found = rows[part]
                there = torch.ones(len(found), dtype=torch.bool, device=self.device)
                sequences = there.view(-1, self.sequence_rows)
                of_part = Latents(features.values[part], features.indices[part])
                yield Rows(found.x, found.places, sequences), of_part
            n_left, number = n_left - len(rows), number + 1


class KnownReader:
    """Blocks of a source, one after the other.

    Args:
        source: draws them.
        seed: fixes the rows.
    """

    def __init__(self, source: KnownActivations, seed: int) -> None:
        self.source, self.seed, self.number = source, seed, 0

    def read(self) -> Rows:
        """Return the next block."""
        rows, _ = self.source.block("train", self.seed, self.number)
        self.number += 1
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Return the number of the next block."""
        return {"block": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        self.number = int(state["block"])


def digest_of(*facts: Any) -> int:
    """Return a seed of 63 bits that differs for different facts."""
    digest = hashlib.sha256(repr(facts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
