"""Columns on ablation, of the tables of an atlas."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from temporal_sae.activations import ActivationSource, Harvest
from temporal_sae.atlas.ablation import cases_of, check_values, chosen_rows, effects_of, why_not
from temporal_sae.atlas.folder import EXAMPLES, LATENTS, Atlas
from temporal_sae.atlas.pairs import write_table
from temporal_sae.errors import RunError
from temporal_sae.sae import SparseAutoencoder

log = logging.getLogger(__name__)

LOSS, KL = "ablation_loss", "ablation_kl"


def ablate(
    folder: Path,
    sae: SparseAutoencoder,
    source: ActivationSource,
    n_examples: int,
    latents: Sequence[int] | None = None,
    seed: int = 0,
    show: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> None:
    """Add to an atlas what happens where a latent is taken away at its top examples.

    What other examples have been given before stays.

    Args:
        folder: of the atlas.
        sae: that it was made of, on the device of the source.
        source: likewise; it is open.
        n_examples: of each latent, at most.
        latents: None: all.
        seed: of the pass over the text.
        show: is told what is being done, and how much of how much is.

    Raises:
        RunError: the source has no language model, or the SAE or the text is another.
    """
    check_source(source)
    atlas, harvest = Atlas(folder), cast(Harvest, source)
    examples = atlas.examples
    check_places(atlas, sae.d_sae)
    rows = chosen_rows(examples, range(sae.d_sae) if latents is None else latents, n_examples)
    cases = cases_of(examples, rows, source, seed)
    measured = sae, harvest.language_model
    first, expected = cases[: harvest.lm_batch_size], examples["activation"].to_numpy()
    if first:  # a mistake is told before the work is done
        values = effects_of(*measured, first, len(first)).value
        check_values(values, expected[[case.row for case in first]])
    found = effects_of(
        *measured,
        cases,
        harvest.lm_batch_size,
        lambda done: show("examples ablated", done, len(cases)),
    )
    columns = {LOSS: column_of(examples, LOSS), KL: column_of(examples, KL)}
    for name, new in ((LOSS, found.loss), (KL, found.kl)):
        columns[name][[case.row for case in cases]] = new
    of = examples["latent"].to_numpy()
    means = {name: means_of(column, of, sae.d_sae) for name, column in columns.items()}
    write_columns(folder / EXAMPLES, examples, columns, atlas)
    write_columns(folder / LATENTS, atlas.latents, means, atlas)
    n_latents = len({case.latent for case in cases})
    log.info("%s examples of %s latents ablated", f"{len(cases):,}", f"{n_latents:,}")


def check_source(source: ActivationSource) -> None:
    """Refuse a source with which nothing can be ablated.

    Raises:
        RunError: see above.
    """
    if why := why_not(source):
        raise RunError(f"latents cannot be ablated: {why}")


def check_places(atlas: Atlas, d_sae: int) -> None:
    """Refuse examples that are nowhere in the text, whoever has written them.

    Raises:
        RunError: see above, or the atlas has another number of latents.
    """
    examples, n_latents = atlas.examples, atlas.latents.num_rows
    if n_latents != d_sae:
        raise RunError(f"{atlas.folder}: has {n_latents} latents, and the SAE {d_sae}")
    names = ("latent", "token", "first", "place")
    latent, token, first, place = (examples[name].to_numpy() for name in names)
    length = pc.list_value_length(examples["token_ids"]).to_numpy()
    is_whole = (first >= 0) & (place >= 0) & (place < length) & (token == first + place)
    is_whole &= (latent >= 0) & (latent < d_sae) & (token < atlas.facts["n_tokens"])
    if not is_whole.all():
        raise RunError(f"{atlas.folder / EXAMPLES}: has examples that are not in the text")


def column_of(table: pa.Table, name: str) -> np.ndarray:
    """Return a column of numbers, NaN where it has none or is not there yet."""
    if name not in table.column_names:
        return np.full(len(table), np.nan, np.float32)
    return np.array(table[name].to_numpy(), np.float32)


def means_of(values: np.ndarray, latents: np.ndarray, n_latents: int) -> np.ndarray:
    """Return the mean of the values of each latent that are there; NaN where none is."""
    known = ~np.isnan(values)
    counts = np.bincount(latents[known], minlength=n_latents)
    sums = np.bincount(latents[known], values[known], n_latents)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def write_columns(
    path: Path, table: pa.Table, columns: Mapping[str, np.ndarray], atlas: Atlas
) -> None:
    """Write a table again with other columns of numbers; null stands for NaN."""
    for name, values in columns.items():
        if name in table.column_names:
            table = table.drop_columns([name])
        column = pa.array(values.astype(np.float32), from_pandas=True)
        table = table.append_column(pa.field(name, pa.float32()), column)
    write_table(path, [table], table.schema, atlas.facts)
