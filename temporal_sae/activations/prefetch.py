"""The next rows are read while training uses the ones before.

A thread asks the reader for one chunk after the other, a chunk being what it gives at once. What
comes out is what the reader itself would have given: the same rows, an error in the place of those
that could not be read, and as state the position behind the rows that have been handed out.

A bounded number of chunks is held or being read at any time. The thread ends with an error, when
`close` is called, when nobody has the `Prefetched` any more, and with the program.
"""

from __future__ import annotations

import weakref
from queue import SimpleQueue
from threading import Semaphore, Thread, current_thread
from typing import Any, NamedTuple

import torch

from temporal_sae.activations.rows import Reader, Rows
from temporal_sae.distributed import world_size
from temporal_sae.errors import InvalidOption, check_int

AUTO = "auto"
CHUNKS = 2  # one that is complete, and one that is being read
SECONDS_OF_PATIENCE = 5.0  # with a chunk that is being read while everything ends


def check_prefetch(option: str, value: Any) -> Any:
    """Return `value` if it is auto, true, false or a number of chunks, else raise InvalidOption."""
    if value == AUTO or isinstance(value, bool):
        return value
    try:
        return check_int(option, value, 1)
    except InvalidOption:
        allowed = "auto, true, false or a whole number of chunks"
        raise InvalidOption(option, value, allowed) from None


def chunks_ahead(prefetch: Any, *devices: torch.device) -> int:
    """Return how many chunks are read ahead, 0 for none.

    Args:
        prefetch: the option.
        devices: of the reader and of the batches.

    Raises:
        InvalidOption: the processes of a run read together, which a thread of each cannot.
    """
    if world_size() > 1:
        if prefetch not in (AUTO, False):
            allowed = "auto or false for several processes, which read each chunk together"
            raise InvalidOption("prefetch", prefetch, allowed)
        return 0
    if prefetch == AUTO:
        return CHUNKS * any(device.type == "cuda" for device in devices)
    return CHUNKS * prefetch if isinstance(prefetch, bool) else int(prefetch)


class Prefetched:
    """A reader whose next chunks are read ahead by a thread.

    Args:
        reader: gives the rows; from the first `read` on only the thread uses it.
        n_chunks: that are held or being read at most.
        device: where the reader computes.
    """

    def __init__(self, reader: Reader, n_chunks: int, device: torch.device) -> None:
        self.reader, self.n_chunks, self.device = reader, n_chunks, device
        self._worker: _Worker | None = None
        # Behind the rows that have been handed out; None where that is where the reader is.
        self._state: dict[str, Any] | None = None

    def read(self) -> Rows:
        """Return the next chunk, once it is there; an error is that of the reader."""
        worker = self._worker or self._start()
        chunk = worker.chunks.get()
        worker.n_free.release()
        if chunk.error is not None:
            self._worker, self._state = None, None  # the same rows are still to come
            raise chunk.error
        self._state = chunk.state
        return chunk.rows_on_current_stream(self.device)

    def _start(self) -> _Worker:
        if self._state is None:
            self._state = self.reader.state_dict()
        else:
            self.reader.load_state_dict(self._state)
        self._worker = _Worker(self.reader, self.n_chunks, self.device)
        weakref.finalize(self, self._worker.stop, SECONDS_OF_PATIENCE)
        return self._worker

    def close(self, seconds: float | None = None) -> None:
        """End the thread and let go of what it has read; the next `read` begins again.

        Args:
            seconds: to wait at most for the chunk that is being read.
        """
        if self._worker is not None:
            self._worker.stop(seconds)
            self._worker = None

    def state_dict(self) -> dict[str, Any]:
        """Return the position behind the rows that have been handed out."""
        return self.reader.state_dict() if self._state is None else self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        self.close()
        self.reader.load_state_dict(state)
        self._state = None


class Chunk(NamedTuple):
    """Rows with the reader's state behind them, or the error in their place."""

    rows: Rows | None = None
    state: dict[str, Any] | None = None
    error: BaseException | None = None
    ready: torch.cuda.Event | None = None  # on CUDA, once they have been computed

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return 0 if self.rows is None else len(self.rows)

    def rows_on_current_stream(self, device: torch.device) -> Rows:
        """Return the rows for use by what follows; their memory is kept as long as that takes."""
        assert self.rows is not None
        if self.ready is not None:
            current = torch.cuda.current_stream(device)
            current.wait_event(self.ready)
            for tensor in self.rows.state_dict().values():
                if tensor.is_cuda:
                    tensor.record_stream(current)
        return self.rows


class _Worker:
    """The thread and what it shares; it knows no `Prefetched`, so that this can be garbage."""

    def __init__(self, reader: Reader, n_chunks: int, device: torch.device) -> None:
        self.reader = reader
        self.n_free, self.chunks = Semaphore(n_chunks), SimpleQueue[Chunk]()
        self.is_over = False
        self.stream = None
        if device.type == "cuda":
            self.stream = torch.cuda.Stream(device)
            self.stream.wait_stream(torch.cuda.current_stream(device))
        # Torch's number of threads belongs to a thread, and the last bits of a sum depend on it.
        self.n_threads = torch.get_num_threads()
        self.thread = Thread(target=self._work, name="prefetch", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        if torch.get_num_threads() != self.n_threads:
            torch.set_num_threads(self.n_threads)
        while self.n_free.acquire() and not self.is_over:
            chunk = self._read()
            self.chunks.put(chunk)
            if chunk.error is not None:
                return

    def _read(self) -> Chunk:
        try:
            with torch.no_grad(), torch.cuda.stream(self.stream):  # None: as it is
                rows = self.reader.read()
                ready = self.stream.record_event() if self.stream else None
            return Chunk(rows, self.reader.state_dict(), ready=ready)
        except BaseException as error:  # noqa: BLE001 - raised where the rows are asked for
            return Chunk(error=error)

    def stop(self, seconds: float | None = None) -> None:
        """End after the chunk that is being read; wait for that, if need be only so long."""
        self.is_over = True
        self.n_free.release()
        if current_thread() is not self.thread:  # garbage may be collected in any thread
            self.thread.join(seconds)
        if self.stream is not None:
            self.stream.synchronize()
