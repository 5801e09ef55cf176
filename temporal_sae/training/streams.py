"""One stream of batches for several SAEs that are trained side by side.

Every SAE sees what it would see alone: the same batches, in checkpoints the same state of the
stream, and of the seconds that reading took its share.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from temporal_sae.activations import ActivationBatch
from temporal_sae.activations.prefetch import SECONDS_OF_PATIENCE
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
        self._earliest: tuple[int, State] | None = None  # where the stream may have to begin

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
            first = min((view.taken for view in self.views), default=None)
            if self._earliest is not None and first in (None, self._earliest[0]):
                self._drawn, state = self._earliest
                self.stream.load_state_dict(state)
            self._earliest = None

    def joined(self, taken: int, state: State | None) -> None:
        """Keep the state of a view that begins with so many batches taken, if it is the first."""
        if state is not None and (self._earliest is None or taken < self._earliest[0]):
            self._earliest = (taken, state)

    def take(self, view: StreamView) -> ActivationBatch:
        """Return the batch that comes next for a view.

        Raises:
            Exception: it cannot be read; every view that asks for it gets the same answer.
        """
        self.begin()
        while self._drawn is not None and self._drawn <= view.taken:
            self._draw(view)
        assert self._batch is not None and self._drawn == view.taken + 1
        return self._batch

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
        if self.stream is not None and self._drawn and not self.views:
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
        """Read a batch; the views that take it share the seconds."""
        assert self._drawn is not None
        if self._error is not None:
            raise self._error
        began = now()
        try:
            self._batch = next(self.stream)
        except Exception as error:
            self._error = error
            raise
        seconds = now() - began
        sharing = [v for v in self.views if v.taken == self._drawn] or [view]
        for other in sharing:
            other.owed_seconds += seconds / len(sharing)
        view.owed_seconds -= seconds  # which pass while this view waits for it
        self._drawn += 1


class StreamView:
    """The batches of a `SharedStream` for one SAE; a `Batches` of its own.

    Attributes:
        taken: batches that have been handed out to it, those before a checkpoint included.
        owed_seconds: its share of the reading, less what it has waited for that.
    """

    def __init__(self, shared: SharedStream, ordered: bool) -> None:
        self.shared, self.ordered = shared, ordered
        self.taken, self.owed_seconds = 0, 0.0
        self._loaded: State | None = None

    def join(self, taken: int) -> None:
        """Go on after so many batches, where the state that has been loaded was taken."""
        self.taken = taken
        self.shared.joined(taken, self._loaded)
        self._loaded = None

    def leave(self) -> None:
        """Take no more, so that nobody waits or reads for it."""
        self.shared.leave(self)

    def __next__(self) -> ActivationBatch:
        batch = self.shared.take(self)
        self.taken += 1
        return batch if self.ordered else ActivationBatch(batch.rows)

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
        metrics: dict[str, Tensor] = self.shared.stream.metrics()
        return metrics

    def state_dict(self) -> State:
        """Return the state of the stream, which has handed out nothing since this view's last."""
        state: State = self.shared.stream.state_dict()
        return state

    def load_state_dict(self, state: State) -> None:
        """Keep a state until it is known how many batches lie before it."""
        self._loaded = state
