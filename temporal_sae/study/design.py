"""The design of an experiment: arms, settings, seeds, and what is compared with what.

An arm is a method as a command line chooses it, with one weight λ2 that is tried at several values.
A setting is where it is tried. Every arm gets the same number of values of λ2 on seeds of their own
(the tuning), and three values around the chosen one on the seeds that count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal

ORTHO_WEIGHT = "loss.ortho_weight"
Stage = Literal["tuning", "final"]
TUNING: Stage = "tuning"
FINAL: Stage = "final"
STAGES: tuple[Stage, ...] = (TUNING, FINAL)
SPREAD = (0.25, 1.0, 2.0)  # times the chosen λ2; the first is near the best explained variance


@dataclass(frozen=True)
class Arm:
    """A method.

    Attributes:
        name: in tables.
        overrides: that choose it, each `key=value`.
        grid: values of λ2 to try; empty for a method without one.
    """

    name: str
    overrides: tuple[str, ...]
    grid: tuple[float, ...] = ()

    def options(self) -> dict[str, str]:
        """Return its overrides by key."""
        pairs = (override.partition("=") for override in self.overrides)
        return {key: value for key, _, value in pairs}


@dataclass(frozen=True)
class Setting:
    """A place where the arms are tried, by overrides."""

    name: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contrast:
    """Two arms that are compared, fixed before the runs.

    Attributes:
        question: that it answers.
        arm, control: names of the arms.
        metrics: that are compared.
    """

    question: str
    arm: str
    control: str
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Design:
    """An experiment.

    Attributes:
        name: of its folder and of its table.
        overrides: shared by all runs.
        settings: where the arms are tried.
        plain: the arm without a penalty, whose explained variance sets the budget.
        arms: the others.
        tuning_seeds: for the choice of λ2 alone.
        seeds: that count.
        cost: metric on which arms are compared at a matched value.
        budget: that much of it may be lost against `plain`.
        metrics: kept of every run, as `sweep.csv` names them.
        contrasts: fixed beforehand.
        spread: values of λ2 of the runs that count, as multiples of the chosen one.
        only_tuned: names of settings that get the tuning alone, and no contrast.
    """

    name: str
    overrides: tuple[str, ...]
    settings: tuple[Setting, ...]
    plain: Arm
    arms: tuple[Arm, ...]
    tuning_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    cost: str
    budget: float
    metrics: tuple[str, ...]
    contrasts: tuple[Contrast, ...]
    spread: tuple[float, ...] = SPREAD
    only_tuned: tuple[str, ...] = ()

    def settings_of(self, stage: Stage) -> tuple[Setting, ...]:
        """Return the settings that have runs of a stage."""
        return tuple(s for s in self.settings if stage == TUNING or s.name not in self.only_tuned)

    def arm_of(self, options: Mapping[str, str]) -> Arm | None:
        """Return the arm that a run's options choose; of several that fit the most special one."""
        fitting = [a for a in (self.plain, *self.arms) if a.options().items() <= options.items()]
        return max(fitting, key=lambda arm: len(arm.overrides), default=None)

    def digest(self) -> str:
        """Return a hash of all that has to be fixed before the first run.

        What has its default is left out, so that an option that comes later changes no hash.
        """
        usual = {field.name: field.default for field in fields(self)}
        told = {key: value for key, value in asdict(self).items() if value != usual[key]}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


Chosen = Mapping[tuple[str, str], Sequence[float]]  # λ2 of (setting, arm)


def sweep_overrides(
    design: Design, setting: Setting, stage: Stage, chosen: Chosen | None = None
) -> list[str]:
    """Return the overrides of the sweep of one setting, for `-m`.

    Args:
        design: of the experiment.
        setting: of the runs.
        stage: the tuning, or the runs that count.
        chosen: λ2 of every arm with a grid, for the latter.
    """
    seeds = design.tuning_seeds if stage == TUNING else design.seeds
    params = ",".join(f"{key}:{value}" for key, value in design.plain.options().items())
    also = []
    for arm in design.arms:
        words = list(arm.overrides)
        if arm.grid:
            weights = arm.grid if chosen is None else chosen[setting.name, arm.name]
            words.append(f"{ORTHO_WEIGHT}={','.join(f'{weight:g}' for weight in weights)}")
        also.append(f"[{','.join(words)}]")
    return [
        *design.overrides,
        *setting.overrides,
        f"seed={','.join(map(str, seeds))}",
        f"hydra.sweeper.params={{{params}}}",
        f"hydra.sweeper.also=[{','.join(also)}]",
    ]
