"""Texts → activations at the hook → means over the tokens of each text, of activations and latents.

All tasks but absorption and the downstream check look at these means alone, as SAEBench's do. What
SCR and TPP do to single tokens, setting latents to zero, is linear in the latents, so its effect on
the mean follows from the mean of the latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from temporal_sae.activations import Harvest
from temporal_sae.errors import check_int
from temporal_sae.eval.tasks.snippets import Cell, Side, Snippets
from temporal_sae.sae import SparseAutoencoder


class Pooled(NamedTuple):
    """Means over the tokens of each text, float32 on the CPU: activations and latents."""

    x: Float[Tensor, "texts d_in"]
    f: Float[Tensor, "texts d_sae"]


class Tokens(NamedTuple):
    """Token ids, padded on the right, and which of them count."""

    ids: Int[Tensor, "texts context"]
    counted: Bool[Tensor, "texts context"]

    @property
    def lengths(self) -> Int[Tensor, " texts"]:
        """Tokens of each text up to the last that counts."""
        return (self.counted * torch.arange(1, self.counted.shape[1] + 1)).amax(1)


def tokenize(texts: Sequence[str], source: Harvest) -> Tokens:
    """Token ids of texts, cut at the context size; special tokens and padding do not count.

    Args:
        texts: at least one.
        source: its tokenizer and context size, and whether BOS comes first, as in training.
    """
    tokenizer = source.language_model.tokenizer
    bos = [tokenizer.bos_token_id] if source.prepend_bos else []
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        truncation=True,
        max_length=source.context_size - len(bos),
        verbose=False,
    )["input_ids"]
    rows = [torch.tensor(bos + ids, dtype=torch.int64) for ids in encoded]
    # A causal model does not look to the right, so any token will do there.
    padding = tokenizer.pad_token_id or 0
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding)
    lengths = torch.tensor([len(row) for row in rows])
    special = torch.tensor(tokenizer.all_special_ids, dtype=torch.int64)
    within = torch.arange(ids.shape[1]) < lengths[:, None]
    return Tokens(ids, within & ~torch.isin(ids, special))


@torch.no_grad()
def pooled_texts(texts: Sequence[str], sae: SparseAutoencoder, source: Harvest) -> Pooled:
    """Pooled activations and latents of texts.

    Texts run together with those of a similar length (the same power of two), so that less than
    half of what the model reads is padding.
    """
    tokens, model = tokenize(texts, source), source.language_model
    lengths = tokens.lengths
    x, f = torch.zeros(len(texts), model.d_in), torch.zeros(len(texts), sae.d_sae)
    of_size = (lengths - 1).clamp(min=1).log2().floor()
    for size in of_size.unique():
        rows = (of_size == size).nonzero()[:, 0]
        longest = max(1, int(lengths[rows].max()))
        counted = tokens.counted[rows, :longest].to(model.device)
        x[rows], f[rows] = pool(model.activations(tokens.ids[rows, :longest]), counted, sae)
    return Pooled(x, f)


@torch.no_grad()
def pool(
    x: Float[Tensor, "texts context d_in"],
    counted: Bool[Tensor, "texts context"],
    sae: SparseAutoencoder,
) -> Pooled:
    """Means over the counted tokens of each text; zero for a text without any.

    Latents are summed as they come, sparse, so that [texts, context, d_sae] never exists but for
    what `encode` itself holds of these texts.
    """
    n_texts = x.shape[0]
    n_tokens = counted.sum(1).clamp(min=1).float()[:, None]
    latents = sae.encode(x[counted].to(sae.W_dec.dtype))
    text_of_token = counted.nonzero()[:, 0]
    places = text_of_token[:, None] * sae.d_sae + latents.indices.clamp(min=0)
    sums = torch.zeros(n_texts * sae.d_sae, device=x.device)
    add_in_order(sums, places.flatten(), latents.values.float().flatten())
    x_mean = torch.where(counted[..., None], x, 0).float().sum(1) / n_tokens
    return Pooled(x_mean.cpu(), (sums.view(n_texts, sae.d_sae) / n_tokens).cpu())


def add_in_order(
    sums: Float[Tensor, " n"], places: Int[Tensor, " m"], values: Float[Tensor, " m"]
) -> None:
    """sums[places] += values; of these two ways, each has a fixed order on one kind of device."""
    if sums.device.type == "cpu":
        sums.index_add_(0, places, values)
    else:
        sums.index_put_((places,), values, accumulate=True)


@dataclass(frozen=True)
class Table:
    """Pooled rows of several cells below each other.

    Attributes:
        x: float [rows, d_in].
        f: float [rows, d_sae].
        rows: the row numbers of each cell.
    """

    x: Float[Tensor, "rows d_in"]
    f: Float[Tensor, "rows d_sae"]
    rows: Mapping[Cell, Int[Tensor, " cell"]]

    def of(self, *cells: Cell, at_most: int | None = None) -> Int[Tensor, " rows"]:
        """Return the rows of some cells, at most so many of each."""
        return torch.cat([self.rows[cell][:at_most] for cell in cells])


class CellActivations:
    """The pooled rows of each cell, made when first asked for.

    A cell is always read in the same batches, whatever is asked for and in which order, so that
    rounding does not depend on which tasks are still to be done.

    Args:
        snippets: the texts.
        sae: takes activations of the language model as they are.
        source: language model, context size and BOS policy.
        batch_texts: texts in one forward pass.
    """

    def __init__(
        self,
        snippets: Snippets,
        sae: SparseAutoencoder,
        source: Harvest,
        batch_texts: int,
    ) -> None:
        self.snippets, self.sae, self.source = snippets, sae, source
        self._batch_texts = check_int("batch_texts", batch_texts, 1)
        self._batches: dict[tuple[Side, Cell, int], Pooled] = {}

    def rows(self, side: Side, cell: Cell, n: int) -> Pooled:
        """Return the first `n` rows of a cell."""
        batches = [self._batch(side, cell, start) for start in range(0, n, self._batch_texts)]
        x, f = zip(*batches, strict=True)
        return Pooled(torch.cat(x)[:n], torch.cat(f)[:n])

    def table(self, side: Side, cells: Sequence[Cell], n: int) -> Table:
        """Return the first `n` rows of each of some cells, in their order."""
        parts = [self.rows(side, cell, n) for cell in cells]
        numbers = torch.arange(n * len(cells)).split(n)
        return Table(
            torch.cat([part.x for part in parts]),
            torch.cat([part.f for part in parts]),
            dict(zip(cells, numbers, strict=True)),
        )

    def _batch(self, side: Side, cell: Cell, start: int) -> Pooled:
        if (side, cell, start) not in self._batches:
            texts = self.snippets.texts(side, cell, start, start + self._batch_texts)
            pooled = pooled_texts(texts, self.sae, self.source)
            self._batches[side, cell, start] = pooled
        return self._batches[side, cell, start]
