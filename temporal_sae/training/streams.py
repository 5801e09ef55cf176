"""One stream of batches for several SAEs that are trained side by side.

Every SAE sees what it would see alone: the same batches, in checkpoints the same state of the
stream, and of the seconds that reading took its share.

Reading ends with what is needed: once the buffer holds all batches that an SAE has still to see,
it takes them from there, see `LastRows`. Its checkpoints keep the stream as it was then, so that an
SAE which is trained further than was planned goes on with the batches of those that were to be
trained that long: up to a buffer of rows comes twice, and as many rows never. A tracker that is fed
in stream order is ahead of the batches by the buffer, so that for it reading goes on to the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from temporal_sae.activations import ActivationBatch, ActivationStream
from temporal_sae.activations.last_rows import LastRows
from temporal_sae.activations.prefetch import SECONDS_OF_PATIENCE
from temporal_sae.activations.rows import Rows
from temporal_sae.training.state_file import State
from temporal_sae.training.stopwatch import now


class SharedStream:
    """A stream whose batches several views hand out, each batch to all before the next is read.

    Args:
        stream: gives the batches, a `Batches`; rows in stream order too once its `ordered` is set.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream  # None once nobody needs it any more
        self._scale = 1.0
        self.views: list[StreamView] = []
        self._drawn: int | None = None  # batches, None before the first view has begun
        self._batch: ActivationBatch | None = None
        self._error: Exception | None = None  # in place of the next batch
        # Where the stream may have to begin: best one that goes on from there, the least far.
        self._earliest: tuple[tuple[bool, int], State] | None = None

    def view(self, ordered: bool = False) -> StreamView:
        """Return the stream as one SAE sees it, from its beginning or from where it has `joined`.

        Args:
            ordered: hand out the rows in stream order too.
        """
        if ordered:
            self.stream.ordered = True
        self.views.append(StreamView(self, ordered))
        return self.views[-1]

    def begin(self) -> None:
        """Go where the view that is least far goes on."""
        if self._drawn is None:
            self._drawn = 0
            first = min((view.begins_at for view in self.views), default=None)
            if self._earliest is not None:
                (_, begins_at), state = self._earliest
                if first in (None, begins_at):
                    self._drawn = begins_at
                    self.stream.load_state_dict({"n_batches": begins_at} | state)
            self._earliest = None

    def joined(self, view: StreamView, state: State | None) -> None:
        """Keep the state from which a view goes on, if the stream may have to begin there."""
        place = (view.is_complete, view.begins_at)
        if state is not None and (self._earliest is None or place < self._earliest[0]):
            self._earliest = (place, state)

    def take(self, view: StreamView) -> ActivationBatch:
        """Return the batch that comes next for a view.

        Raises:
            Exception: it cannot be read; every view that asks for it gets the same answer.
        """
        self.begin()
        while view.needs_stream and self._drawn is not None and self._drawn <= view.taken:
            self._draw(view)
        ordered: tuple[Rows, ...] = ()
        if view.needs_stream:
            assert self._batch is not None and self._drawn == view.taken + 1
            ordered = self._batch.ordered if view.ordered else ()
        if view.last is not None:
            return ActivationBatch(view.last.batch(view.taken), ordered)
        assert self._batch is not None
        return ActivationBatch(self._batch.rows, ordered)

    @property
    def scale(self) -> float:
        """By which the rows are divided; 1 of a stream that does not scale them."""
        if self.stream is None:
            return self._scale
        self.begin()
        return float(getattr(self.stream, "scale", 1.0))

    def leave(self, view: StreamView) -> None:
        """Hand out nothing more to a view; after the last one let go of the stream."""
        if view in self.views:
            self.views.remove(view)
        is_read = self._drawn or view.last is not None
        view.last = None
        if self.stream is not None and is_read and not self.views:
            self._scale = self.scale
            self.release()
            self.stream = self._batch = None

    def release(self, seconds: float | None = None) -> None:
        """Give back what the stream holds; see `ActivationStream.release`."""
        if hasattr(self.stream, "release"):
            self.stream.release(seconds)

    @contextmanager
    def released(self) -> Iterator[None]:
        """Call `release` when the context ends; after an error without much waiting."""
        try:
            yield
        except BaseException:
            self.release(SECONDS_OF_PATIENCE)
            raise
        self.release()

    def _draw(self, view: StreamView) -> None:
        """Read a batch, unless the view has its last ones; those that take it share the seconds."""
        assert self._drawn is not None
        if self._error is not None:
            raise self._error
        began = now()
        try:
            self._end_where_enough_is_held()
            if not view.needs_stream:
                return
            self._batch = next(self.stream)
        except Exception as error:
            self._error = error
            raise
        seconds = now() - began
        sharing = [v for v in self.views if v.taken == self._drawn and v.needs_stream] or [view]
        for other in sharing:
            other.owed_seconds += seconds / len(sharing)
        view.owed_seconds -= seconds  # which pass while this view waits for it
        self._drawn += 1

    def _end_where_enough_is_held(self) -> None:
        """Give the rows that the stream holds to all views that need no others."""
        if not isinstance(self.stream, ActivationStream) or self._drawn is None:
            return
        going = [view for view in self.views if view.last is None]
        ending = [
            view
            for view in going
            if view.end is not None and self.stream.holds(view.end - self._drawn)
        ]
        if ending:
            last = self.stream.last_rows(copied=len(ending) < len(going))
            for view in ending:
                view.last = last
            if not any(view.needs_stream for view in self.views):
                self.release()


class StreamView:
    """The batches of a `SharedStream` for one SAE; a `Batches` of its own.

    Attributes:
        taken: batches that have been handed out to it, those before a checkpoint included.
        end: batches in all, None where that is not known.
        begins_at: the batches after which the stream has to begin for it.
        last: its last batches, once the stream is not read on for them.
        owed_seconds: its share of the reading, less what it has waited for that.
    """

    def __init__(self, shared: SharedStream, ordered: bool) -> None:
        self.shared, self.ordered = shared, ordered
        self.taken, self.begins_at, self.owed_seconds = 0, 0, 0.0
        self.end: int | None = None
        self.last: LastRows | None = None
        self._loaded: State | None = None

    def join(self, taken: int, end: int) -> None:
        """Go on after so many batches of `end`, where the state that has been loaded was taken.

        That of a view in its last batches is of before them; others tell no number.
        """
        self.taken, self.end = taken, end
        if self._loaded is not None:
            self.begins_at = int(self._loaded.get("n_batches", taken))
        self.shared.joined(self, self._loaded)
        self._loaded = None

    @property
    def is_complete(self) -> bool:
        """True once it has had all batches."""
        return self.end is not None and self.taken >= self.end

    @property
    def needs_stream(self) -> bool:
        """True as long as the stream is read for it."""
        return self.last is None or self.ordered

    def leave(self) -> None:
        """Take no more, so that nobody waits or reads for it."""
        self.shared.leave(self)

    def __next__(self) -> ActivationBatch:
        batch = self.shared.take(self)
        self.taken += 1
        return batch

    def settle(self) -> float:
        """Return the seconds that it owes, and owe nothing."""
        seconds, self.owed_seconds = self.owed_seconds, 0.0
        return seconds

    @property
    def scale(self) -> float:
        """As the stream's own."""
        return self.shared.scale

    def sample(self, n: int) -> Tensor:
        """As the stream's own, at its beginning."""
        self.shared.begin()
        sample: Tensor = self.shared.stream.sample(n)
        return sample

    def metrics(self) -> dict[str, Tensor]:
        """As the stream's own."""
        if self.last is not None:
            return self.last.metrics
        metrics: dict[str, Tensor] = self.shared.stream.metrics()
        return metrics

    def state_dict(self) -> State:
        """Return the state of the stream, which has handed out nothing since this view's last."""
        if self.last is not None:
            return self.last.state
        state: State = self.shared.stream.state_dict()
        return state

    def load_state_dict(self, state: State) -> None:
        """Keep a state until it is known how many batches lie before it."""
        self._loaded = state
