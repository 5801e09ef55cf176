"""The end of a run: its last batches come from what the shuffle buffer holds."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from temporal_sae.activations.rows import Rows

if TYPE_CHECKING:
    from temporal_sae.activations.stream import ActivationStream


class LastRows:
    """The rows that a stream holds, in random order, in batches, with nothing more being read.

    They depend on nothing but the state of the stream, so that several runs can have them, each
    from a batch of its own on.

    Args:
        stream: where it is when the first of these batches is due.
        copied: whether the stream goes on with its rows; it leaves them to this object otherwise,
            and gives batches without rows from then on, as fast as before.

    Attributes:
        state: of the stream, and that of a checkpoint of a run in any of these batches.
        metrics: of the stream.
    """

    def __init__(self, stream: ActivationStream, copied: bool) -> None:
        # What goes on from a checkpoint has had its first batch, and the rows in order with it.
        state = stream.state_dict() | {"not_handed_out": {}}
        kept = {id(x): x.clone() if copied else x for x in state["buffer"]["rows"].values()}
        self.state: dict[str, Any] = copy.deepcopy(state, kept)
        self.metrics = stream.metrics()
        self._rows = Rows.from_state(self.state["buffer"]["rows"], stream.device)
        self._order = stream.buffer.order_of_all()
        self._first, self._batch_size, self._scale = (
            stream.n_batches,
            stream.batch_size,
            stream.scale,
        )
        if not copied:
            stream.buffer.hand_over()

    def batch(self, number: int) -> Rows:
        """Return the batch of that number, counted from the beginning of the stream."""
        start = (number - self._first) * self._batch_size
        return self._rows[self._order[start : start + self._batch_size]].scaled(self._scale)
