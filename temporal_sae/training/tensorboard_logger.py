"""`logger=tensorboard`: metrics go to an event file in the run's folder, too."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from temporal_sae import signals
from temporal_sae.errors import RunError
from temporal_sae.registry import component
from temporal_sae.training.loggers import About, EndTable, Metrics, logged_steps

FOLDER = "tensorboard"
EVENTS = "events.out.tfevents."  # how TensorBoard knows its files


@component("logger")
class TensorBoardLogger:
    """A file of events for TensorBoard: metrics under `train/`, the evaluation under `eval/`.

    The file is made anew from `metrics.jsonl` when a run is continued: it has every step once, also
    those that were logged while this logger was not chosen.

    Args:
        folder: the run's folder; the file goes to `tensorboard/` in it.

    Raises:
        RunError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        if find_spec("tensorboard") is None:
            needs = "needs TensorBoard (pip install 'temporal_sae[tensorboard]')"
            raise RunError(f"logger=tensorboard: {needs}")
        self.folder = Path(folder)
        self._about, self._step = About({}), 0
        self._events: EventFile | None = None

    def start(self, about: About) -> None:
        """Keep what the run is; the file waits until it is known where the run begins."""
        self._about = about

    def rewind(self, step: int) -> None:
        """Begin the file, with the config and the steps up to `step`."""
        self._step = step
        self._events = EventFile(self.folder / FOLDER)
        config = json.dumps(self._about.config, indent=2, default=str)
        self._events.text(0, "config", f"```\n{config}\n```")
        rows = list(logged_steps(self.folder, step))
        for (n, metrics), ago in zip(rows, seconds_ago([row for _, row in rows]), strict=True):
            self._scalars(n, "train", metrics, time.time() - ago)

    def log(self, step: int, metrics: Metrics) -> None:
        """Write the metrics of a step."""
        self._step = step
        self._scalars(step, "train", metrics)

    def summarise(self, metrics: Metrics) -> None:
        """Write what the evaluation has found, at the last step."""
        self._scalars(self._step, "eval", metrics)

    def tabulate(self, table: EndTable) -> None:
        """Write the table as a text."""
        if self._events is not None:
            self._events.text(self._step, "results", table.markdown)

    def finish(self, exit_code: int) -> None:
        """Close the file."""
        if self._events is not None:
            self._events.close()
        self._events = None

    def _scalars(self, step: int, group: str, metrics: Metrics, when: float | None = None) -> None:
        if self._events is not None:
            named = {f"{group}/{name}": value for name, value in metrics.items()}
            self._events.scalars(step, named, when)


def seconds_ago(rows: Sequence[Metrics]) -> list[float]:
    """Return how long before the last of these rows each was logged, in seconds of training."""
    seconds = [0.0]
    for later, row in zip(rows[:0:-1], rows[-2::-1], strict=True):
        rate = later.get("tokens_per_second", 0.0)
        passed = (later.get("tokens", 0) - row.get("tokens", 0)) / rate if rate > 0 else 0.0
        seconds.append(seconds[-1] + passed)
    return seconds[: len(rows)][::-1]


class EventFile:
    """A new file of events, in place of what those in its folder hold.

    Every event is handed to the system at once, so that a run that is killed loses none.

    Args:
        folder: made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        with signals.held():
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.plugins.text.summary_v2 import text_pb
            from tensorboard.summary.writer.record_writer import RecordWriter

        self._event: Callable[..., Any] = Event
        self._summary, self._text = Summary, text_pb
        folder.mkdir(exist_ok=True)
        earlier = sorted(folder.glob(f"{EVENTS}*"))
        self._records = RecordWriter((folder / f"{EVENTS}{time.time_ns():020d}").open("wb"))
        self._write(file_version="brain.Event:2")
        # A TensorBoard that has read the file of the part before forgets what it holds of it.
        self._write(step=0, session_log=SessionLog(status=SessionLog.START))
        for path in earlier[:-1]:
            path.unlink()
        for path in earlier[-1:]:
            path.write_bytes(b"")  # it goes on to the next file only from one that is still there

    def scalars(self, step: int, values: Metrics, when: float | None = None) -> None:
        """Write numbers by name, as of now or of another time."""
        entries = [self._summary.Value(tag=tag, simple_value=v) for tag, v in values.items()]
        self._write(when, step=step, summary=self._summary(value=entries))

    def text(self, step: int, tag: str, markdown: str) -> None:
        """Write a text."""
        self._write(step=step, summary=self._text(tag, markdown))

    def close(self) -> None:
        """Write nothing more."""
        self._records.close()

    def _write(self, when: float | None = None, **event: Any) -> None:
        wall_time = time.time() if when is None else when
        self._records.write(self._event(wall_time=wall_time, **event).SerializeToString())
        self._records.flush()
