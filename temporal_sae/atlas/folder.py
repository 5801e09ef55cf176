"""A finished atlas: its tables, and what they were made from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from temporal_sae.atlas.explanations import Explained, read_explanations
from temporal_sae.atlas.show import show_pages
from temporal_sae.errors import RunError
from temporal_sae.files import parse_json
from temporal_sae.schemas import AtlasFacts, misfit

PAIRS, LATENTS = "pairs.parquet", "latents.parquet"
EXAMPLES, TOKENS = "examples.parquet", "tokens.parquet"
OVERLAPS, GRAPH = "overlaps.parquet", "graph.graphml"
FACTS = b"temporal_sae"
ADVICE = "python -m temporal_sae.atlas builds it"


class Atlas:
    """The tables in a folder that `python -m temporal_sae.atlas` has written.

    Args:
        folder: `atlas` of a run, or what `--output` named.

    Raises:
        RunError: a table is missing or cannot be read; of `facts`, the file is another program's.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @cached_property
    def pairs(self) -> pa.Table:
        """A row for every pair; docs/atlas.md names the columns."""
        return self._read(PAIRS)

    @cached_property
    def latents(self) -> pa.Table:
        """A row for every latent; likewise."""
        return self._read(LATENTS)

    @cached_property
    def examples(self) -> pa.Table:
        """A row for every example of a latent; likewise."""
        return self._read(EXAMPLES)

    @cached_property
    def tokens(self) -> pa.Table:
        """A row for every token id that occurs in the text."""
        return self._read(TOKENS)

    @cached_property
    def overlaps(self) -> pa.Table:
        """A row for every pair that a latent lists, if earlier steps of the SAE are known."""
        return self._read(OVERLAPS)

    @cached_property
    def explanations(self) -> list[Explained]:
        """The explanations that were imported, by latent; mostly none."""
        return read_explanations(self.folder, self.latents.num_rows)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Numbers of tokens, windows and documents, thresholds, and what the tables are of."""
        found = (self.latents.schema.metadata or {}).get(FACTS)
        path = self.folder / LATENTS
        try:
            facts: dict[str, Any] = parse_json(found or b"")
        except ValueError as error:
            raise RunError(f"{path}: was not written by temporal_sae.atlas") from error
        if problem := misfit(facts, AtlasFacts):
            raise RunError(f"{path}: cannot be read (in its metadata: {problem})")
        return facts

    def show(self) -> Path:
        """Show the pages, in a notebook below the cell; returns the path of the first."""
        return show_pages(self.folder, ADVICE)

    def read_pairs(self, *columns: str) -> pa.Table:
        """Return some columns of the table of pairs, which may be too large for all."""
        return self._read(PAIRS, columns)

    def _read(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        from temporal_sae.atlas.columns import check_columns  # it imports what imports this

        path = self.folder / name
        try:
            table = pq.read_table(path, columns=None if columns is None else list(columns))
        except FileNotFoundError:
            raise RunError(f"{path}: is missing; {ADVICE}") from None
        except (OSError, pa.ArrowException) as error:
            raise RunError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error
        check_columns(path, table)
        return table
