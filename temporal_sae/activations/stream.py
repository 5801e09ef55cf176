"""Rows in stream order → shuffled batches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from temporal_sae.activations.last_rows import LastRows
from temporal_sae.activations.outliers import OUTLIERS, Outliers
from temporal_sae.activations.prefetch import Prefetched, check_prefetch
from temporal_sae.activations.rows import ActivationBatch, EndOfRows, Reader, Rows
from temporal_sae.activations.shuffle import ShuffleBuffer
from temporal_sae.errors import (
    InvalidOption,
    RunError,
    check_bool,
    check_choice,
    check_int,
    check_number,
)

# Options that decide how training mixes and scales rows, not which ones there are.
OF_TRAINING_ALONE = (
    "buffer_tokens",
    "normalize",
    "outliers",
    "outlier_factor",
    "prefetch",
    "exclude",
)


class StreamOptions:
    """Options that every source has: how its rows are mixed and scaled.

    Args:
        buffer_tokens: rows of the shuffle buffer; as many as a batch has: rows keep their order.
        normalize: divide by one constant so that E‖x‖² = 1 in training; folded into the saved SAE.
        outliers: what training does with rows that are too long: `keep` them, `drop` them, or
            `clip` them to the limit. Their share is counted in any case, and evaluation takes all
            rows as they are. On CUDA `drop` waits for the device whenever rows are read.
        outlier_factor: the limit, over the median norm of the rows that first fill the buffer.
        prefetch: read the next rows while the last ones are trained on: true, false, or how many
            chunks ahead, each what the source gives at once; `auto`: on CUDA. The results are the
            same.

    Raises:
        InvalidOption: an option is out of range.
    """

    def __init__(
        self,
        buffer_tokens: int = 32768,
        normalize: bool = True,
        outliers: str = "keep",
        outlier_factor: float = 10.0,
        prefetch: str | bool | int = False,
    ) -> None:
        self.buffer_tokens = check_int("buffer_tokens", buffer_tokens, 1)
        self.normalize = check_bool("normalize", normalize)
        self.outliers = check_choice("outliers", outliers, OUTLIERS)
        self.outlier_factor = check_number("outlier_factor", outlier_factor, minimum=1.0)
        self.prefetch = check_prefetch("prefetch", prefetch)


class ActivationStream(Iterator[ActivationBatch]):
    """Shuffled batches of activations, without end; can be stopped and continued to the bit.

    Args:
        options: of the source.
        reader: gives the rows, which may lie on another device.
        batch_size: rows of a batch.
        seed: fixes the shuffling.
        ordered: hand out the rows in stream order too.
        device: of the buffer and the batches.
        at_once: rows that the reader may give at once.
        largest: the most rows that the buffer may hold.
        about: JSON facts on what is read, in which a state that is loaded has to agree.

    Attributes:
        n_batches: that have been handed out, those before a checkpoint included.

    Raises:
        InvalidOption: the buffer is smaller than a batch.
    """

    def __init__(
        self,
        options: StreamOptions,
        reader: Reader,
        batch_size: int,
        seed: int,
        ordered: bool = False,
        device: str | torch.device = "cpu",
        at_once: int = 0,
        largest: int | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        if batch_size > options.buffer_tokens:
            allowed = f"at least trainer.batch_size={batch_size}"
            raise InvalidOption("buffer_tokens", options.buffer_tokens, allowed)
        self.options, self.reader, self.device = options, reader, torch.device(device)
        self.batch_size, self.ordered, self.about = batch_size, ordered, about
        capacity = min(options.buffer_tokens, largest or options.buffer_tokens)
        mixes = options.buffer_tokens > batch_size
        self.buffer = ShuffleBuffer(capacity, seed, device, at_once, mixes)
        self.outliers = Outliers(options.outliers, options.outlier_factor, device)
        self.n_batches = 0
        self._not_handed_out: list[Rows] = []
        self._scale: float | None = None
        self._ended: EndOfRows | None = None

    @property
    def scale(self) -> float:
        """√E‖x‖² over the first full buffer, by which batches are divided; 1 if not normalised.

        Measured once outliers have been dropped or clipped.
        """
        if self._scale is None:
            self._fill()
            x = self.buffer.held().x.float()
            norm = float(x.square().sum(-1).mean().sqrt())
            self._scale = norm if self.options.normalize and norm > 0 else 1.0
        return self._scale

    def sample(self, n: int) -> Float[Tensor, "n d_in"]:
        """Up to `n` rows of the buffer as batches would hold them; nothing is consumed."""
        scale = self.scale
        held = self.buffer.held().x
        return held[:: max(1, held.shape[0] // n)][:n].float() / scale

    def __next__(self) -> ActivationBatch:
        scale = self.scale
        self._fill()
        rows = self.buffer.draw(self.batch_size).scaled(scale)
        ordered = tuple(rows.scaled(scale) for rows in self._not_handed_out)
        self._not_handed_out = []
        self.n_batches += 1
        return ActivationBatch(rows, ordered)

    def holds(self, n_batches: int) -> bool:
        """Return whether so many batches can be had without reading on.

        The first buffer is filled before that is asked: scale and limit are measured on it.
        """
        if self._scale is None:
            self._fill()
        return self.buffer.count >= n_batches * self.batch_size

    def last_rows(self, copied: bool) -> LastRows:
        """Return what the buffer holds, for runs that end with it.

        Args:
            copied: whether the stream goes on with its rows.
        """
        return LastRows(self, copied)

    def release(self, seconds: float | None = None) -> None:
        """Give the rows back that are held, and read no more ahead; only the scale is left.

        Args:
            seconds: to wait at most for the rows that are being read.
        """
        if isinstance(self.reader, Prefetched):
            self.reader.close(seconds)
        self.buffer.clear()
        self._not_handed_out = []

    def metrics(self) -> dict[str, Tensor]:
        """`outlier_share`: outliers among all rows read so far; on the device."""
        return {"outlier_share": self.outliers.share()}

    def _fill(self) -> None:
        """Read until the buffer is full; what fills it first also sets the outliers' limit.

        At the end of the rows the buffer is emptied, as far as there is a batch in it.

        Raises:
            EndOfRows: there is none.
        """
        if self.outliers.limit is None:
            first: list[Rows] = []
            while sum(map(len, first)) < self.buffer.capacity and self._ended is None:
                first += self._read()
            if first:
                self.outliers.measure([rows.x for rows in first])
            while first:  # each is freed once it has been copied
                self._take_in(first.pop(0))
        while not self.buffer.full and self._ended is None:
            for rows in self._read():
                self._take_in(rows)
        if self._ended is not None and self.buffer.count < self.batch_size:
            raise self._ended

    def _read(self) -> list[Rows]:
        """Return the next rows, or nothing where they have ended."""
        try:
            return [self.reader.read().to(self.device)]
        except EndOfRows as end:
            self._ended = end
            return []

    def _take_in(self, rows: Rows) -> None:
        rows = self.outliers.treat(rows)
        self.buffer.add(rows)
        if self.ordered and len(rows):
            self._not_handed_out.append(rows)

    def state_dict(self) -> dict[str, Any]:
        """Reader, buffer, scale, and the limit and counts of outliers."""
        scale = self.scale  # first: measuring it may read
        waiting = {str(n): rows.state_dict() for n, rows in enumerate(self._not_handed_out)}
        return {
            "about": json.dumps(self.about, sort_keys=True),
            "reader": self.reader.state_dict(),
            "buffer": self.buffer.state_dict(),
            "scale": scale,
            "outliers": self.outliers.state_dict(),
            "not_handed_out": waiting,
            "n_batches": self.n_batches,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken.

        Raises:
            RunError: it was taken from other activations.
        """
        own, found = json.dumps(self.about, sort_keys=True), state.get("about", "null")
        if "null" not in (own, found) and own != found:
            raise RunError(
                f"the checkpoint is that of a run on other activations ({found}, and not {own}); "
                "choose another folder"
            )
        # Before 0.2 there was one kind of reader, whose sequences were called windows.
        self.reader.load_state_dict(state["reader"] if "reader" in state else state["windows"])
        self.buffer.load_state_dict(state["buffer"])
        self._scale = float(state["scale"])
        self.outliers.load_state_dict(state["outliers"])
        self.n_batches = int(state.get("n_batches", 0))
        waiting = state.get("not_handed_out", {})
        self._not_handed_out = [
            Rows.from_state(waiting[str(n)], self.device) for n in range(len(waiting))
        ]
