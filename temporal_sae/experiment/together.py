"""Runs from their configs to their reports: one, or several that share a stream of activations."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from temporal_sae import distributed, signals
from temporal_sae.activations import ActivationSource, Harvest
from temporal_sae.activations.rows import Reader
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.eval import Subject
from temporal_sae.eval.subject import given
from temporal_sae.experiment.build import uses_cuda
from temporal_sae.experiment.construct import TARGET
from temporal_sae.experiment.determinism import deterministic_on_cpu, threads_of
from temporal_sae.experiment.memory import NoRoom, Room
from temporal_sae.experiment.record import EXIT_CODES, OTHER_ERROR
from temporal_sae.experiment.run import Run
from temporal_sae.experiment.shared_time import SharedTime
from temporal_sae.machine import Planned
from temporal_sae.registry import components, names_of
from temporal_sae.terminal import Forgiving
from temporal_sae.training import Preempted, SharedStream, Stopped, train_together
from temporal_sae.training.progress import JointProgress, ProgressDisplay

OF_STREAM = ("activations", "model", "data", "seed", "device")
STOPS = (Stopped, Preempted, KeyboardInterrupt, SystemExit)
About = Callable[[int], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Request:
    """A run that is asked for.

    Attributes:
        cfg: a composed config with the groups of `conf/`.
        folder: receives everything that the run leaves.
        overrides: the command line, for the record.
    """

    cfg: DictConfig
    folder: Path
    overrides: Sequence[str] = ()


class Ending(NamedTuple):
    """The end of a run: its objective where it has finished, and otherwise an error."""

    objective: float | None
    error: Exception | None


def run_experiment(
    cfg: DictConfig,
    folder: str | Path,
    overrides: list[str] | None = None,
    console: Console | None = None,
) -> float:
    """Train, evaluate and report one run; continues what the folder already holds.

    Where the environment tells of several processes they share the work; all of them call this.

    Args:
        cfg: a composed config with the groups of `conf/`.
        folder: receives everything that the run leaves.
        overrides: the command line, for the record.
        console: where progress and the summary are printed.

    Returns:
        The metric that `cfg.objective` names.

    Raises:
        InvalidOption, RunError: something a person can correct.
        EvaluationFailed: the SAE is trained and saved, and some evaluation has failed; the same
            command in the same folder repeats only those.
        Stopped: a signal ended training; a checkpoint has been written.
        Preempted: a cluster ends the process, and has queued the run again.
        SystemExit: in a process that is not the first, where the first says what went wrong.
    """
    try:
        with distributed.process_group(uses_cuda(cfg.device)):
            request = Request(cfg, Path(folder), overrides or ())
            (ending,) = run_together([request], console=console or Console())
            if ending.error is not None:
                raise ending.error
    except Exception as error:
        signals.obey()  # what a swallowed signal leaves half done may fail in any way
        if distributed.is_left_to_rank_zero(error) and not isinstance(error, Stopped):
            raise SystemExit(EXIT_CODES.get(type(error), OTHER_ERROR)) from None
        raise
    return cast(float, ending.objective)


def run_together(
    requests: Sequence[Request],
    about: About = lambda number: nullcontext(),
    console: Console | None = None,
    when_over: Callable[[int, Ending], None] = lambda number, ending: None,
) -> list[Ending]:
    """Train runs of one stream side by side, evaluate and report them; an error ends one alone.

    Each becomes to the bit what it would be by itself. Where memory does not suffice for all of
    them the others follow in further rounds.

    Args:
        requests: the runs; `stream_of` their configs is the same.
        about: entered with a run's place among them around all that is done for it alone.
        console: where progress is printed, and of a single run its summary.
        when_over: is called with a run's place and its end, as soon as it is over by itself.

    Returns:
        How each has ended.

    Raises:
        Stopped, Preempted, KeyboardInterrupt: a signal has stopped all that had not finished.
    """
    if console is None or not distributed.is_rank_zero():
        console = Console(quiet=True)
    console.file = cast(IO[str], Forgiving(console.file))

    def told(number: int, run: Run) -> None:
        if not isinstance(signals.as_stop(run.error) if run.error else None, STOPS):
            when_over(number, ending_of(run))

    several = len(requests) > 1
    runs = [
        Run(*of_run, partial(about, n), partial(told, n), beside_others=several)
        for n, of_run in enumerate((r.cfg, r.folder, r.overrides) for r in requests)
    ]
    time = SharedTime()
    try:
        sources: dict[Any, ActivationSource] = {}
        for run in runs:
            run.claim(sources.get(place_of(run)), next(iter(sources.values()), None))
            if run.goes_on:
                sources.setdefault(place_of(run), run.cheap.source)
        time.divide(runs)
        for group in by_threads([run for run in runs if run.goes_on]):
            while group:
                group = Round(group, console, time).finish()
    except BaseException as error:
        for run in runs:
            run.end(error)
        raise
    return [ending_of(run) for run in runs]


def ending_of(run: Run) -> Ending:
    """Return how a run has ended."""
    objective = None if run.error else run.objective
    return Ending(objective, cast(Exception | None, run.error))


def stream_of(cfg: Mapping[str, Any]) -> str:
    """Return a text that is the same for runs which can be trained on one stream.

    Args:
        cfg: a composed config, all resolved.
    """
    shared = {key: cfg.get(key) for key in OF_STREAM}
    target = (shared["activations"] or {}).get(TARGET)
    known = (cls for cls in components("activations") if target in names_of(cls))
    if any(cls.shares_passes for cls in known) and shared["model"]:
        shared["model"] = {k: v for k, v in shared["model"].items() if k != "hook_name"}
    return json.dumps([shared, cfg["trainer"]["batch_size"]], sort_keys=True, default=str)


def place_of(run: Run) -> Any:
    """Return the place of the language model that a run reads, None where there is none."""
    return OmegaConf.select(run.cfg, "model.hook_name")


def by_threads(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs in groups: those that go on with other numbers of threads go by themselves.

    On the CPU the last bits depend on that number.
    """
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        began_with = (run.continued or {}).get("threads")
        usual = began_with in (None, torch.get_num_threads())
        groups.setdefault("usual" if usual else began_with, []).append(run)
    return [*groups.values()]


class Round:
    """Runs side by side, as many as memory allows.

    Args:
        runs: they have claimed their folders, and share a source.
        console: where progress is printed.
        time: that passes for runs.
    """

    def __init__(self, runs: Sequence[Run], console: Console, time: SharedTime) -> None:
        self.runs, self.console, self.time = list(runs), console, time
        self._streams: dict[Any, SharedStream] = {}

    def finish(self) -> list[Run]:
        """Do what is to be done, and return the runs for which there was no room."""
        cheap, room = self.runs[0].cheap, Room()
        with threads_of(self.runs[0].continued, cheap.device):
            waiting = [run for run in self.runs if not self._is_built(run, room)]
            self.runs = [run for run in self.runs if run.goes_on and run not in waiting]
            with deterministic_on_cpu(cheap.device):
                self._train()
                self._judge([run for run in self.runs if run.goes_on])
        return waiting

    def _is_built(self, run: Run, room: Room) -> bool:
        """Build a run, and return whether there was room for it."""
        try:
            run.build(partial(self._stream, run, room), room)
        except NoRoom:
            return False
        return True

    def _stream(self, run: Run, room: Room) -> SharedStream:
        """Return the stream of a run's place; they are made for all places together."""
        if not self._streams:
            sources = {place_of(each): each.cheap.source for each in self.runs}
            opened = {place: source for place, source in sources.items() if can_open(source)}
            batch_size, seed = run.cheap.trainer.batch_size, run.cheap.seed
            readers: Sequence[Reader | None] = [None]
            if len(opened) > 1:
                places, first = [*opened], cast(Harvest, run.cheap.source)
                readers, room.beside = first.readers(seed, places), first.waiting_bytes(places)
            room.beside |= self._last_rows_bytes(opened.values())
            for (place, source), reader in zip(opened.items(), readers, strict=True):
                stream = source.stream(batch_size, seed, reader=reader)
                self._streams[place] = SharedStream(stream)
        return self._streams[place_of(run)]

    def _last_rows_bytes(self, sources: Iterable[ActivationSource]) -> dict[str, Planned]:
        """Return what shorter runs take at most for copies of the buffer, see `LastRows`."""
        n_shorter = len({run.cheap.trainer.total_steps for run in self.runs}) - 1
        buffers = [ActivationSource.planned_bytes(source)["shuffle buffer"] for source in sources]
        n_bytes = n_shorter * sum(buffer.n_bytes for buffer in buffers)
        keys = buffers[0].smaller
        name = "last rows of shorter runs"
        return {name: Planned(n_bytes, keys, phase="training")} if n_shorter else {}

    def _train(self) -> None:
        """Train, in all processes."""
        if not self.runs:
            return
        total_steps = max(run.parts.trainer.total_steps for run in self.runs)
        progress = ProgressDisplay(total_steps, self.console)
        if len(self.runs) > 1:
            progress = JointProgress(total_steps, self.console, len(self.runs))
        with ExitStack() as streams:
            for place in {place_of(run): None for run in self.runs}:
                streams.enter_context(self._streams[place].released())
            lanes = [run.enter_training(progress) for run in self.runs]
            self.time.divide(self.runs)
            train_together(lanes)
        self.time.divide(self.runs, [lane.seconds for lane in lanes])
        del lanes  # and with them what only training needs
        self._streams.clear()
        for run in self.runs:
            run.leave_training()
        stops = [e for run in self.runs if isinstance(e := run.error, (Stopped, Preempted))]
        if stops:
            raise stops[0]

    def _judge(self, runs: Sequence[Run]) -> None:
        """Evaluate in the first process, and end all in order."""
        for group in by_evaluation(runs):
            judge = partial(self._judge_group, group)
            if len(group) > 1:
                judge()
                continue
            with group[0].alone():  # of several processes all get the answer, or the error
                group[0].objective = distributed.on_rank_zero(judge)
        for run in runs:
            if run.goes_on:
                with run.about():
                    run.finish()

    def _judge_group(self, runs: Sequence[Run]) -> float | None:
        """Evaluate runs with one evaluation.

        Returns:
            The objective of a single one.

        Raises:
            Exception: a single one's.
        """
        signals.obey()
        console = self.console if len(self.runs) == 1 else Console(quiet=True)
        subjects: dict[Run, Subject] = {}
        evaluation = runs[0].parts.evaluation
        for run in runs:
            with run.alone():
                subjects[run] = run.subject()
        found = evaluation.run_together([*subjects.values()]) if subjects else []
        self.time.divide([*subjects])
        for run, outcome in zip(subjects, found, strict=True):
            with run.alone():
                run.conclude(given(outcome), console)
            self.time.divide([run])
        if len(runs) == 1 and runs[0].error is not None:
            raise runs[0].error
        return runs[0].objective


def can_open(source: ActivationSource) -> bool:
    """Return whether a source opens; where it does not, each of its own runs is told why."""
    try:
        source.open()
    except (InvalidOption, RunError):
        return False
    return True


def by_evaluation(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs in groups that are evaluated alike."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(run.config["eval"], default=str), []).append(run)
    return [*groups.values()]
