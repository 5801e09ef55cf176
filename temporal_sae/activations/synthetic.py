"""Activations of a synthetic world, whose features are known."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from temporal_sae.activations.known import BLOCK_ROWS, KnownActivations, digest_of
from temporal_sae.activations.prefetch import AUTO
from temporal_sae.activations.rows import Rows
from temporal_sae.activations.world import World
from temporal_sae.activations.world_options import WorldOptions
from temporal_sae.data import Split
from temporal_sae.errors import InvalidOption, check_choice, check_int
from temporal_sae.kernels.sparse_products import decode_rows
from temporal_sae.latents import Latents
from temporal_sae.registry import component

DOCUMENTS, ROWS = "documents", "rows"


@component("activations")
class SyntheticActivations(KnownActivations):
    """Rows of a `World`.

    Args:
        world: its sizes and rates.
        seed: fixes the world; which rows of it are drawn depends on the run's seed.
        order: `documents` are texts about a topic, one after the other in the phase that it is;
            or topic and phase of all `rows` are drawn independently, so that the order of the rows
            says nothing while each is distributed as before.
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
        order: str = DOCUMENTS,
        buffer_tokens: int = 32768,
        normalize: bool = True,
        outliers: str = "keep",
        outlier_factor: float = 10.0,
        prefetch: str | bool | int = AUTO,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(buffer_tokens, normalize, outliers, outlier_factor, prefetch)
        self.seed = check_int("seed", seed, 0)
        self.order = check_choice("order", order, (DOCUMENTS, ROWS))
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

    def block(self, split: Split, seed: int, number: int) -> tuple[Rows, Latents]:
        """Return the rows of a block and what fires in them, the same whenever asked for.

        The phases of held-out documents are drawn, so that all of them are evaluated on.
        """
        self.open()
        assert self.truth is not None
        o = self.world
        generator = torch.Generator().manual_seed(digest_of(split, self.seed, seed, number))
        document, position = torch.arange(BLOCK_ROWS), torch.zeros(BLOCK_ROWS, dtype=torch.long)
        if self.order == DOCUMENTS:
            document, position = draw_documents(o.document_rows, generator)
        topics = torch.randint(o.n_topics, (BLOCK_ROWS,), generator=generator)[document]
        phases = None
        if o.phase_rows and self.order == DOCUMENTS and split == "train":
            row = torch.arange(number * BLOCK_ROWS, (number + 1) * BLOCK_ROWS)
            phases = row // o.phase_rows % o.n_phases
        elif o.phase_rows:
            phases = torch.randint(o.n_phases, (BLOCK_ROWS,), generator=generator)[document]
        features = self.truth.sample(topics, generator, phases)
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


def draw_documents(mean_rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return (document, position in it) of the rows of a block.

    Any row may be the first of a document with the same probability, so lengths are geometric.
    """
    begins = torch.rand(BLOCK_ROWS, generator=generator) < 1 / mean_rows
    begins[0] = True
    document = begins.long().cumsum(0) - 1
    starts = begins.nonzero()[:, 0]
    return document, torch.arange(BLOCK_ROWS) - starts[document]
