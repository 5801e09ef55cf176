"""Metrics are declared once, in the file that computes them, with all that others need of them.

What `objective` may name, the tables of a run, the comparison of runs and the sweeps read these
declarations, and nobody else has a list.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Literal

from temporal_sae import registry
from temporal_sae.errors import RunError

DASH = "–"
CORE_SECTION = "core evaluation results"
TASKS_SECTION = "tasks results"
TRAINING_SECTION = "training results"
TRUTH_SECTION = "ground truth results"
# What is measured on held-out rows alone, whatever the evaluation that reads them.
ROW_SECTIONS = (CORE_SECTION, TRUTH_SECTION)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number in `results.json`, or a family of numbers with similar names.

    Attributes:
        name: its key there. In the name of a family `*` stands for anything; where several
            declarations fit a name, the one with the longest counts.
        sections: beginnings of the section's name; of several the first that there is counts.
        groups: the keys between the section and the metric.
        better: on which side; None where neither is.
        compared: False for what is the same whatever the SAE (a property of the language model or
            of the evaluation), for controls, and for a second name of the same number.
        label: what tables call it; empty for what they leave out.
        form: a format for its value.
        headline: True for the few that the table at a sweep's end shows.
    """

    name: str
    sections: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    better: Literal["higher", "lower"] | None = None
    compared: bool = True
    label: str = ""
    form: str = "{:.3f}"
    headline: bool = False

    def called(self, name: str) -> Metric:
        """Return the member of this family with that name."""
        return replace(self, name=name)

    def of(self, results: dict[str, Any]) -> float | None:
        """Return the value in the content of a `results.json`; None where it was not measured."""
        for beginning in self.sections:
            for name, section in results.items():
                if name.startswith(beginning):
                    value: Any = section
                    for key in (*self.groups, self.name):
                        value = value.get(key) if isinstance(value, dict) else None
                    return value if isinstance(value, (int, float)) else None
        return None

    def shown(self, results: dict[str, Any]) -> str:
        """Return the same as a text, a dash where it was not measured."""
        value = self.of(results)
        return DASH if value is None else self.form.format(value)


# What `objective` may name whatever the evaluation: the averages over the last steps.
TRAINING_METRICS = {
    name: Metric(name=name, sections=(TRAINING_SECTION,), groups=("final_info",))
    for name in ("explained_variance", "final_loss", "l0", "dead_share")
}
of_tasks = partial(Metric, sections=(TASKS_SECTION,), groups=("scores",))
_declared: list[Metric] = []


def declare(*metrics: Metric) -> tuple[Metric, ...]:
    """Make metrics known, and return them."""
    _declared.extend(metrics)
    return metrics


def declared() -> Sequence[Metric]:
    """Return all that are known, in the order of their declaration by each evaluation."""
    registry.components("eval")
    return _declared


def fitting(name: str) -> list[Metric]:
    """Return the declarations that fit a metric's own name, the closest first."""
    found = [m for m in declared() if m.name == name or fnmatchcase(name, m.name)]
    return sorted(found, key=lambda m: (m.name == name, len(m.name)), reverse=True)


def better_when_higher(name: str) -> bool | None:
    """Return whether higher values of a metric are better; None where no direction is declared."""
    better = next((metric.better for metric in fitting(name)), None)
    return None if better is None else better == "higher"


def is_compared(name: str) -> bool:
    """Return whether a metric says something about the SAE that no other one says."""
    return all(metric.compared for metric in fitting(name)[:1])


def find_objective(name: str, results: dict[str, Any]) -> float:
    """Return the metric of that name; an evaluation's before the training's.

    Raises:
        RunError: it is not a finite number, or two evaluations have measured one of that name.
    """
    found: dict[tuple[str, ...], float] = {}
    for metric in fitting(name):
        value = metric.called(name).of(results)
        if value is not None:
            found.setdefault(metric.sections, value)
    if len(found) > 1:
        both = " and in ".join(repr(sections[0]) for sections in found)
        raise RunError(f"the objective {name} stands in {both}")
    training = TRAINING_METRICS[name].of(results) if name in TRAINING_METRICS else None
    value = next(iter(found.values()), training)
    if value is None or not math.isfinite(value):
        raise RunError(f"the objective {name} is {value}")
    return float(value)


def finite_leaves(nested: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """(name, value) of all finite numbers in nested groups."""
    for name, value in nested.items():
        if isinstance(value, dict):
            yield from finite_leaves(value)
        elif isinstance(value, (int, float)) and math.isfinite(value):
            yield name, float(value)
