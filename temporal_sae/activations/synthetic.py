"""Activations of a synthetic world, whose features are known."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from temporal_sae.activations.prefetch import AUTO
from temporal_sae.activations.rows import Rows
from temporal_sae.activations.source import ActivationSource
from temporal_sae.activations.world import World, WorldOptions
from temporal_sae.data import Split
from temporal_sae.errors import InvalidOption, check_int
from temporal_sae.kernels.sparse_products import decode_rows
from temporal_sae.latents import Latents
from temporal_sae.registry import component

BLOCK_ROWS = 4096  # that are drawn at once; documents end with them


@component("activations")
class SyntheticActivations(ActivationSource):
    """Rows of a `World`.

    Args:
        world: its sizes and rates.
        seed: fixes the world; which rows of it are drawn depends on the run's seed.
        buffer_tokens, normalize, outliers, outlier_factor, prefetch: see `StreamOptions`.
        device: where batches are.

    Attributes:
        truth: the world.

    Raises:
        InvalidOption: an option is out of range.
    """

    def __init__(
        self,
        world: WorldOptions | None = None,
        seed: int = 0,
        buffer_tokens: int = 32768,
        normalize: bool = True,
        outliers: str = "keep",
        outlier_factor: float = 10.0,
        prefetch: str | bool | int = AUTO,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(buffer_tokens, normalize, outliers, outlier_factor, prefetch)
        self.seed = check_int("seed", seed, 0)
        self.world = WorldOptions() if world is None else world
        if not isinstance(self.world, WorldOptions):
            raise InvalidOption("world", world, "the options of a world")
        self.device = torch.device(device)
        self.dtype, self.d_in = torch.float32, self.world.d_in
        self.name = f"a synthetic world of {self.world.n_features} features"
        self.truth: World | None = None

    def open(self) -> None:
        """Make the world.

        Raises:
            InvalidOption: an option of it does not go with the others, or with this machine.
        """
        if self.truth is None:
            try:
                # Not the seed itself: an SAE with that seed would begin with the true directions,
                # which are the first numbers of the same generator.
                self.truth = World(self.world, digest_of("world", self.seed))
            except InvalidOption as error:
                raise error.within("world") from error
            self._directions = self.truth.directions.to(self.device)

    @property
    def rows_at_once(self) -> int:
        """Rows of a block."""
        return BLOCK_ROWS

    def check(self, split: Split) -> None:
        """There are rows without end."""

    def reader(self, seed: int) -> SyntheticReader:
        """Return rows in the order of their documents, without end."""
        self.open()
        return SyntheticReader(self, seed)

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

    def block(self, split: Split, seed: int, number: int) -> tuple[Rows, Latents]:
        """Return the rows of a block, the same ones whenever they are asked for."""
        self.open()
        assert self.truth is not None
        o = self.world
        generator = torch.Generator().manual_seed(digest_of(split, self.seed, seed, number))
        document, position = draw_documents(o.document_rows, generator)
        topics = torch.randint(o.n_topics, (BLOCK_ROWS,), generator=generator)[document]
        features = self.truth.sample(topics, generator)
        values, indices = (part.to(self.device) for part in features)
        x = decode_rows(values, indices, self._directions)
        if o.noise:
            x += o.noise * torch.randn(x.shape, generator=generator).to(self.device)
        places = torch.stack([torch.full_like(document, -1), document, position], dim=1).int()
        places[:, 1] += number * BLOCK_ROWS
        return Rows(x, places.to(self.device)), Latents(values, indices)

    def metadata(self) -> dict[str, Any]:
        """There is no model."""
        return {**super().metadata(), "dataset_path": "synthetic"}


class SyntheticReader:
    """Blocks of a world, one after the other.

    Args:
        source: the world.
        seed: fixes the rows.
    """

    def __init__(self, source: SyntheticActivations, seed: int) -> None:
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


def draw_documents(mean_rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return (document, position in it) of the rows of a block.

    Any row may be the first of a document with the same probability, so lengths are geometric.
    """
    begins = torch.rand(BLOCK_ROWS, generator=generator) < 1 / mean_rows
    begins[0] = True
    document = begins.long().cumsum(0) - 1
    starts = begins.nonzero()[:, 0]
    return document, torch.arange(BLOCK_ROWS) - starts[document]


def digest_of(*facts: Any) -> int:
    """Return a seed of 63 bits that differs for different facts."""
    digest = hashlib.sha256(repr(facts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
