"""The contract of a source of activations.

A source has rows of activations in an order of its own, the stream order: that of a text, of a
file, of the documents of a synthetic world. Training takes them shuffled, and a tracker may take
them in stream order too; held-out rows are never trained on. Everything downstream sees only this
class, and does not know whether there is a language model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from temporal_sae.activations.language_model import LanguageModel
from temporal_sae.activations.prefetch import Prefetched, chunks_ahead
from temporal_sae.activations.rows import Reader, Rows
from temporal_sae.activations.stream import ActivationStream, StreamOptions
from temporal_sae.data import Split, TextSource
from temporal_sae.errors import RunError
from temporal_sae.machine import Planned

# What a source may give to evaluations, which declare what they need of it.
ROWS, LANGUAGE_MODEL, TEXT, TRUTH = "rows", "language_model", "text", "truth"
PLACES_BYTES = 12  # of a row: token, document and position


class ActivationSource(StreamOptions, ABC):
    """The base of all sources of activations.

    The constructor only judges options, in no time; `open` loads or maps what there is. A run
    gives a constructor those of these arguments that it names: `model`, a function that loads the
    language model, or None; `text`, a `TextSource` or None; `options_of`, a function that returns
    the options of the group `model` or `data`; `device`, where batches shall be; and `folder`, the
    run's own.

    Attributes:
        d_in: width of the rows; known once it is open, as are `dtype`, `model` and `truth`.
        dtype: of the rows as they are read.
        device: where batches are.
        name: a few words for tables and files: that of the language model, or of the files.
        layer: of the language model that the rows come from, None where there is none.
        model: the language model, None where there is none.
        text: its text, None where there is none.
        truth: the features that are true, of a synthetic world; None elsewhere.
        changed: whether a run goes on where what it reads is not what it has begun with: `refuse`
            or `accept`.
        reads: the config group that says what is read.
        shares_passes: sources that differ in the place of the language model alone can be read
            together; it has `readers` then, as `Harvest` has.
        sequence_rows: rows of a held-out sequence, at most.
        held_out_advice: helps where there is too little to evaluate on, in words.
    """

    d_in: int
    dtype: torch.dtype
    device: torch.device
    name: str
    layer: int | None = None
    model: LanguageModel | None = None
    text: TextSource | None = None
    truth: Any = None
    changed: str = "refuse"
    reads: ClassVar[str] = "activations"
    shares_passes: ClassVar[bool] = False
    sequence_rows: int = 128
    held_out_advice: str = "give activations.held_out_fraction a larger value, or use eval=none"

    @abstractmethod
    def open(self) -> None:
        """Load or map what there is; a second call does nothing.

        Raises:
            InvalidOption, RunError: it cannot be had.
        """

    @abstractmethod
    def reader(self, seed: int) -> Reader:
        """Return the training rows in stream order, without end."""

    @abstractmethod
    def check(self, split: Split) -> None:
        """Refuse a split that has no rows, as far as can be told without computing any.

        Raises:
            InvalidOption, RunError: it has none, or they cannot be read.
        """

    @abstractmethod
    def held_out(self, n_sequences: int, batch_sequences: int, seed: int = 0) -> Iterator[Rows]:
        """Yield up to so many held-out sequences in stream order, some at a time.

        Of a text these are the sequences that the language model reads, elsewhere rows that follow
        each other. The rows of a sequence that are no text are left out.
        """

    def training_sequences(self, seed: int) -> Iterator[tuple[Tensor, Tensor]] | None:
        """Return the sequences whose rows `reader` gives, where those are computed from text.

        Each comes as rows of (token, document, position, kinds), int32 [context, 4], with a mask
        of those that the reader gives. None: the source reads no text.
        """
        return None

    @property
    def rows_at_once(self) -> int:
        """Rows that a reader may give at once."""
        return 0

    @property
    def rows_in_pass(self) -> int | None:
        """Rows that are trained on before any comes again; None: nobody knows."""
        return None

    @property
    def reads_on(self) -> torch.device:
        """The device on which the reader computes."""
        return self.device

    @property
    def chunks_ahead(self) -> int:
        """Chunks of rows that are read ahead.

        Raises:
            InvalidOption: there are several processes.
        """
        return chunks_ahead(self.prefetch, self.reads_on, self.device)

    def stream(
        self, batch_size: int, seed: int, ordered: bool = False, reader: Reader | None = None
    ) -> ActivationStream:
        """Return the endless, resumable training stream.

        Args:
            batch_size: rows of a batch.
            seed: fixes the order of the rows.
            ordered: hand out the rows in stream order too.
            reader: gives the training rows, where they are not read for this stream alone.

        Raises:
            InvalidOption: the buffer is smaller than a batch, or several processes read ahead.
            RunError: `ordered`, and there is no stream order.
        """
        if ordered:
            self.check_order()
        reader, at_once = reader or self.reader(seed), self.rows_at_once
        if n_chunks := self.chunks_ahead:
            reader = Prefetched(reader, n_chunks, self.reads_on)
        # A buffer that is larger than a pass would hold the same rows several times.
        largest = max(batch_size, self.rows_in_pass or self.buffer_tokens)
        about = self.describe() if self.changed == "refuse" else None
        return ActivationStream(
            self, reader, batch_size, seed, ordered, self.device, at_once, largest, about
        )

    def check_order(self) -> None:
        """Refuse a tracker that wants the rows in stream order, where they are not kept in it.

        Raises:
            RunError: see above; by default they are.
        """
        return

    def why_not(self, need: str) -> str | None:
        """Return why an evaluation cannot have what it needs, in words; None if it can."""
        if need == ROWS:
            try:
                return self.check("held_out")
            except RunError as error:
                return str(error)
        lacking = {
            LANGUAGE_MODEL: (self.model, "a language model"),
            TEXT: (self.text, "text"),
            TRUTH: (self.truth, "features that are known to be true"),
        }
        what, told = lacking[need]
        return None if what is not None else f"these activations come without {told}"

    def planned_bytes(self) -> dict[str, Planned]:
        """Return the bytes that the source takes on its device, by purpose, once it is open."""
        row = self.d_in * self.dtype.itemsize + PLACES_BYTES
        n_bytes = self.buffer_tokens * row
        planned = {"shuffle buffer": Planned(n_bytes, ("activations.buffer_tokens",))}
        if n_chunks := self.chunks_ahead:
            n_bytes = n_chunks * self.rows_at_once * row
            planned["rows read ahead"] = Planned(n_bytes, ("activations.prefetch=false",))
        return planned

    def metadata(self) -> dict[str, Any]:
        """Return JSON facts for the `cfg.json` of an SAE that was trained on these rows."""
        return {"model_name": None, "hook_name": None}

    def describe(self) -> dict[str, Any]:
        """Return a few JSON facts that tell what is read from anything else, for run.json."""
        return {}

    def listing(self) -> dict[str, Any]:
        """Return a JSON fact for every file, by its name; another fact is another content."""
        return {}

    def left_out(self) -> dict[str, dict[str, Any]]:
        """Return `count` and `example` of what has been passed over so far, by reason."""
        return {}
