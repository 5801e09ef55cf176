"""Text in a data set of the Hugging Face hub, or in a local folder that `datasets` can load."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from temporal_sae.data.sources import Split, TextSource, hash_fraction
from temporal_sae.errors import InvalidOption, check_bool, check_int, check_number


class HubText(TextSource):
    """A text data set of the Hugging Face hub, or a local folder that `datasets` can load.

    Args:
        name: data set name or local path.
        subset: which of its configurations, if it has several.
        dataset_split: the split to read.
        text_column: the column that holds the text.
        streaming: read over the network as needed instead of downloading everything first.
        held_out_fraction: share of the documents kept for evaluation, chosen by their content.
        shuffle_buffer: documents that `datasets` shuffles among; 0 keeps the stored order.
        folder: the run's own, which is not read.
    """

    def __init__(
        self,
        name: str,
        subset: str | None = None,
        dataset_split: str = "train",
        text_column: str = "text",
        streaming: bool = True,
        held_out_fraction: float = 0.01,
        shuffle_buffer: int = 0,
        folder: Path | None = None,
    ) -> None:
        if folder is not None and folder.resolve().is_relative_to(Path(str(name)).resolve()):
            allowed = "a data set that does not hold the run's own folder (hydra.run.dir)"
            raise InvalidOption("name", name, allowed)
        self.name, self.subset, self.dataset_split = name, subset, dataset_split
        self.text_column, self.streaming = text_column, check_bool("streaming", streaming)
        self.held_out_fraction = check_number("held_out_fraction", held_out_fraction, maximum=0.999)
        self.shuffle_buffer = check_int("shuffle_buffer", shuffle_buffer, 0)
        self._rows: Any = None

    def _load(self) -> Any:
        from datasets import load_dataset  # imported late: two seconds that other sources save

        if self._rows is None:
            try:
                rows = load_dataset(
                    self.name, self.subset, split=self.dataset_split, streaming=self.streaming
                )
            except Exception as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise InvalidOption(
                    "name", self.name, f"a data set that can be loaded ({reason})"
                ) from error
            if rows.column_names and self.text_column not in rows.column_names:
                columns = ", ".join(rows.column_names)
                raise InvalidOption("text_column", self.text_column, f"one of {columns}")
            self._rows = rows if self.streaming else rows.to_iterable_dataset()
        return self._rows

    def documents(
        self, split: Split, seed: int, epoch: int, start: int = 0
    ) -> Iterator[tuple[int, str]]:
        """One pass over the documents of a split."""
        rows = self._load()
        if self.shuffle_buffer and split == "train":
            rows = rows.shuffle(seed=seed + epoch, buffer_size=self.shuffle_buffer)
        for cursor, row in enumerate(rows.skip(start), start=start + 1):
            text = row[self.text_column]
            if not text:
                continue
            held_out = hash_fraction(text) < self.held_out_fraction
            if held_out == (split == "held_out"):
                yield cursor, text
