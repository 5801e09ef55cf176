"""Several SAEs, trained side by side on one stream, each as it would be alone.

A round trains every SAE on the same batch, one after the other. One that goes on from a later step
waits until the others have come there; one that fails ends alone. Each has its own random state, so
that the bits are those that it would have alone.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from signal import Signals
from typing import TYPE_CHECKING, Any

from temporal_sae import distributed, signals
from temporal_sae.training.interrupts import PREEMPTION, StopRequest
from temporal_sae.training.parts import Parts
from temporal_sae.training.state import TrainingState, rng_state, set_rng_state
from temporal_sae.training.stopwatch import Clock
from temporal_sae.training.streams import StreamView

if TYPE_CHECKING:
    from temporal_sae.training.trainer import Trainer


class Stopped(Exception):
    """Training stopped at a step boundary because of a signal; a checkpoint has been written."""

    def __init__(self, step: int, signal_number: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.step, self.signal_number = step, signal_number


class Preempted(SystemExit):
    """A cluster ends the process, which goes on later; a checkpoint has been written."""

    def __init__(self, step: int, code: Any) -> None:
        super().__init__(code)
        self.step = step


class Lane:
    """The training of one SAE among several.

    It begins with the random state there is when it is made.

    Args:
        trainer: does its steps.
        parts: of the training.
        view: that `parts.batches` is, where the stream is shared.
        about: is entered around all that is done for this SAE alone.
        when_failed: is called with the error that ends it, while the others go on.

    Attributes:
        parts: of the training; gone once it has been let go.
        state: of the training, once it has begun; gone likewise.
        seconds: of its steps since it has begun here.
        error: that has ended it; None while it goes on and when it is complete.
    """

    def __init__(
        self,
        trainer: Trainer,
        parts: Parts,
        view: StreamView | None = None,
        about: Callable[[], AbstractContextManager[Any]] = nullcontext,
        when_failed: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        self._when_failed = when_failed
        self.trainer, self.parts, self.view, self._about = trainer, parts, view, about
        self.state: TrainingState | None = None
        self.error: BaseException | None = None
        self.seconds = self._seconds_before = 0.0
        self._random = rng_state(parts.sae.W_dec.device)
        self._writing = parts.checkpoints.background

    @property
    def is_open(self) -> bool:
        """True while there are steps to do."""
        return self.error is None and not self._is_complete()

    @property
    def run(self) -> TrainingState:
        """The state of a training that has begun."""
        assert self.state is not None
        return self.state

    def begin(self) -> None:
        """Begin afresh, or where the newest checkpoint was written."""
        self._alone(self._begin)

    def advance(self) -> None:
        """Do a step, and save what is due after it."""
        self._alone(self._advance)

    def save(self) -> None:
        """Save where it is, unless that is done."""
        self._alone(lambda: self.run.saving.save(self.parts, self.run))

    def _begin(self) -> None:
        self.parts.complete(self.trainer.batch_size)
        if isinstance(self.parts.batches, StreamView):
            self.view = self.parts.batches
        run = self.trainer.start(self.parts)
        run.clock = Clock(run.seconds, run.step * self.trainer.batch_size)
        self._seconds_before = run.seconds
        if self.view is not None:
            self.view.join(run.step, self.trainer.total_steps)
        self.state = run

    def _advance(self) -> None:
        run, trainer, parts = self.run, self.trainer, self.parts
        with run.clock.running():
            trainer.step(parts, run)
            if self.view is not None:
                run.clock.add(self.view.settle())
            run.seconds = run.clock.seconds()
            self.seconds = run.seconds - self._seconds_before
            run.saving.after_step(parts, run, self._is_complete())

    def end(self, error: BaseException) -> None:
        """End it by an error that all processes have."""
        self.error = distributed.collective(error)

    def let_go(self) -> None:
        """Hold nothing more that training needs, the batch included that an error came of."""
        cause = self.error
        while cause is not None:
            traceback.clear_frames(cause.__traceback__)
            cause = cause.__cause__ or cause.__context__
        del self.parts, self.state

    def settle(self) -> None:
        """Wait for a checkpoint that is being written, so that it is whole when all has ended."""
        self._writing.settle()

    def show_beginning(self) -> None:
        """Show how far it is before the first step."""
        step = self.run.step
        self.parts.progress.start_at(step, step * self.trainer.batch_size)

    def _alone(self, work: Callable[[], None]) -> None:
        """Work for this SAE, with its own random state; an error ends it, and no other."""
        device = self.parts.sae.W_dec.device
        set_rng_state(self._random, device)
        try:
            with self._about():
                work()
            self._random = rng_state(device)
        except Exception as error:  # noqa: BLE001 - raised by whoever has asked for this SAE
            signals.obey()
            self.error = error
            self.settle()
            self._when_failed(error)
        if self.view is not None and not self.is_open:
            self.view.leave()

    def _is_complete(self) -> bool:
        return self.state is not None and self.state.step >= self.trainer.total_steps


class _NoneGoesOn(Exception):
    """No lane is to be trained further, for whatever signal has come meanwhile."""


def train_together(lanes: Sequence[Lane]) -> None:
    """Train every lane to its end, or until a signal asks to stop; the lanes tell how they ended.

    Of an SAE that is stopped a checkpoint has been written, and its error is `Stopped`, or
    `Preempted` where the handler of SIGUSR2 ends the process. With several processes there is one
    lane.

    Raises:
        KeyboardInterrupt: a second Ctrl-C.
    """
    for lane in lanes:
        lane.begin()
    _let_failed_go(lanes, lanes)
    with suppress(_NoneGoesOn), StopRequest() as stop, ExitStack() as at_end:
        for lane in lanes:
            if lane.error is None:
                at_end.callback(lane.settle)
                at_end.enter_context(lane.parts.progress)
                lane.show_beginning()
        while going := [lane for lane in lanes if lane.is_open]:
            step = min(lane.run.step for lane in going)
            for lane in going:
                if lane.run.step == step:
                    lane.advance()
            _let_failed_go(going, lanes)
            # A process whose only lane has failed must not ask: the others are elsewhere.
            well = [lane for lane in going if lane.error is None]
            if well and (asked := stop.agreed()):
                _obey(asked, stop, well)
        if any(lane.error is not None for lane in lanes):
            raise _NoneGoesOn


def _let_failed_go(going: Sequence[Lane], lanes: Sequence[Lane]) -> None:
    """Let go of what the lanes hold that have failed, for the others may go on for long."""
    for lane in going if len(lanes) > 1 else ():
        if lane.error is not None:
            lane.let_go()


def _obey(asked: Signals, stop: StopRequest, lanes: Sequence[Lane]) -> None:
    """Save all lanes, and end them where the signal asks for that."""
    for lane in lanes:
        lane.save()
    lanes = [lane for lane in lanes if lane.error is None]
    if not lanes:
        return
    if asked == PREEMPTION:
        try:
            stop.hand_on()
        except SystemExit as leaving:
            for lane in lanes:
                lane.end(Preempted(lane.run.step, leaving.code))
    elif stop.ends(asked):
        for lane in lanes:
            lane.end(Stopped(lane.run.step, asked))
