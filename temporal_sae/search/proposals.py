"""The space of a search, and the next trial given those that are done.

A proposal is a function of the trials and of the seed alone: a new optuna study is told all trials
every time, and nothing of it is kept. So a search that goes on after an interruption tries what it
would have tried without one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, Override

from temporal_sae.errors import InvalidOption
from temporal_sae.overrides.expand import values_of

if TYPE_CHECKING:
    import optuna

DIGITS = 4  # of a proposed number, within the width of its interval
DRAWS = 50  # for a proposal that has not been tried, before any that has not will do
MORE_DRAWS = 2000
SEEDS = 2**32  # numpy's generator takes no more
DIRECTIONS = ("maximize", "minimize")


@dataclass(frozen=True)
class Interval:
    """`interval(low, high)`, both included: `int(…)` whole numbers, `tag(log, …)` logarithmic."""

    low: float
    high: float
    log: bool
    whole: bool

    def distribution(self) -> optuna.distributions.BaseDistribution:
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def word(self, number: Any) -> str:
        """As few digits as tell neighbours apart: it becomes part of a folder's name."""
        if self.whole:
            return str(int(number))
        width = (self.high - self.low) / max(abs(self.low), abs(self.high))
        digits = DIGITS + max(0, math.floor(-math.log10(width)))
        return repr(min(max(float(f"{number:.{digits}g}"), self.low), self.high))

    def number(self, word: str) -> float | int:
        number = int(word) if self.whole else float(word)
        if not self.low <= number <= self.high:
            raise ValueError(f"{word} is outside [{self.low:g}, {self.high:g}]")
        return number

    def size(self) -> float:
        return self.high - self.low + 1 if self.whole else math.inf

    def examples(self) -> Sequence[str]:
        return self.word(self.low), self.word(self.high)


@dataclass(frozen=True)
class Values:
    """`a,b,c` or `choice(…)`, or in order with `range(…)`. Its numbers are places in the list."""

    words: tuple[str, ...]
    ordered: bool

    def distribution(self) -> optuna.distributions.BaseDistribution:
        from optuna.distributions import CategoricalDistribution, IntDistribution

        if self.ordered:
            return IntDistribution(0, len(self.words) - 1)
        return CategoricalDistribution(range(len(self.words)))

    def word(self, number: Any) -> str:
        return self.words[number]

    def number(self, word: str) -> int:
        return self.words.index(word)

    def size(self) -> float:
        return len(self.words)

    def examples(self) -> Sequence[str]:
        return self.words


# Something that a search varies: it speaks of it in optuna's numbers and in words of overrides.
# `number` raises ValueError for a word outside of it; `examples` are words, among them all that may
# be wrong for reasons of their own.
Dimension = Interval | Values


def dimension(override: Override) -> Dimension:
    """Return the dimension of an override that sweeps.

    Raises:
        InvalidOption: it is no dimension of a search.
    """
    key, sweep = override.get_key_element(), override.value()
    tags: set[str] = getattr(sweep, "tags", set())
    text = (override.input_line or "").partition("=")[2]
    if tags - {"log"} or (tags and not override.is_interval_sweep()):
        raise InvalidOption(key, text, "without tags, or tag(log, interval(low, high))")
    if not isinstance(sweep, IntervalSweep):
        words = tuple(dict.fromkeys(values_of(override)))
        return Values(words, ordered=override.is_range_sweep())
    assert sweep.start is not None and sweep.end is not None
    least = "above 0 and " if "log" in tags else ""
    finite = math.isfinite(sweep.start) and math.isfinite(sweep.end)
    if not finite or sweep.start >= sweep.end or (tags and sweep.start <= 0):
        raise InvalidOption(key, text, f"an interval whose low end is {least}below its high end")
    return Interval(sweep.start, sweep.end, "log" in tags, isinstance(sweep.start, int))


@dataclass(frozen=True)
class Trial:
    """Words by key, and the objective that they led to; None: the run has failed."""

    words: Mapping[str, str]
    value: float | None


@dataclass(frozen=True)
class Search:
    """The options of a search.

    Args:
        space: dimensions by key.
        direction: `maximize` or `minimize`.
        n_startup_trials: trials that are drawn at random before those done say anything.
        seed: of all draws, together with the number of trials done.
    """

    space: Mapping[str, Dimension]
    direction: str
    n_startup_trials: int
    seed: int

    def propose(self, trials: Sequence[Trial], count: int) -> list[dict[str, str]]:
        """Words of the next trials, which differ from each other and from all that were tried.

        Fewer than `count`, or none, where the space holds no more.
        """
        from optuna.samplers import RandomSampler

        seed = (self.seed * 1_000_003 + len(trials)) % SEEDS
        study = self._study(trials, seed)
        distributions = {key: item.distribution() for key, item in self.space.items()}
        tried = {tuple(trial.words[key] for key in self.space) for trial in trials}
        size = math.prod(item.size() for item in self.space.values())
        proposed: list[dict[str, str]] = []
        for draw in range(DRAWS * count + MORE_DRAWS):
            if len(proposed) == count or len(tried) >= size:
                break
            if draw == DRAWS * count:
                study.sampler = RandomSampler(seed)
            asked = study.ask(distributions)
            words = {key: item.word(asked.params[key]) for key, item in self.space.items()}
            if tuple(words.values()) not in tried:
                tried.add(tuple(words.values()))
                proposed.append(words)
        return proposed

    def _study(self, trials: Sequence[Trial], seed: int) -> optuna.Study:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        # The constant liar: a proposal that is not told yet counts as bad, so that those of one
        # batch lie apart, and one that was tried before is not drawn over and over.
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=self.n_startup_trials, constant_liar=True, seed=seed
        )
        study = optuna.create_study(direction=self.direction, sampler=sampler)
        states = optuna.trial.TrialState
        for trial in trials:
            told = optuna.trial.create_trial(
                state=states.FAIL if trial.value is None else states.COMPLETE,
                value=trial.value,
                params={key: item.number(trial.words[key]) for key, item in self.space.items()},
                distributions={key: item.distribution() for key, item in self.space.items()},
            )
            study.add_trial(told)
        return study

    def holds(self, words: Mapping[str, str]) -> bool:
        """Return whether these words are a point of the space."""
        try:
            for key, item in self.space.items():
                item.number(words[key])
        except ValueError:
            return False
        return True

    def corners(self) -> list[dict[str, str]]:
        """Points at which every word has its turn that may be wrong for reasons of its own."""
        examples = {key: item.examples() for key, item in self.space.items()}
        return [
            {key: words[min(turn, len(words) - 1)] for key, words in examples.items()}
            for turn in range(max(map(len, examples.values())))
        ]

    def best(self, trials: Sequence[Trial]) -> int | None:
        """Place of the best trial, the first of equals; None if all have failed."""
        sign = 1 if self.direction == "maximize" else -1
        values = {place: t.value for place, t in enumerate(trials) if t.value is not None}
        return max(values, key=lambda place: sign * values[place], default=None)
