"""Sizes and rates of a world whose features are known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from temporal_sae.errors import InvalidOption, check_choice, check_number, keep_int
from temporal_sae.machine import MIB, free_memory
from temporal_sae.registry import component

LARGEST_SPREAD = 1e6  # of values and noise: squares of rows stay finite in float32
STEEPEST = 24.0  # powers of ten from the first rate to the last that the bisection can tell apart
MOST_LEVELS = 32
MOST_IN_COMMON = 0.99  # of what makes a feature fire
BY_CHANCE, BY_ROLE = "chance", "role"


@component("activations.world")
@dataclass(frozen=True)
class WorldOptions:
    """Sizes and rates of a world.

    Attributes:
        d_in: width of the activations.
        n_features: more than `d_in` are in superposition.
        orthogonal_steps: that push the directions apart, see `directions`; 0: as drawn.
        l0: features that fire in a row, on average.
        zipf: exponent of the rates; 0: all alike.
        rank_by: who has the highest rates: features by `chance`, or by `role` roots first and
            those without a role last, as in SynthSAEBench (arXiv 2602.14687).
        value_std: standard deviation of a feature's values, whose mean is 1.
        noise: standard deviation of what is added to each component of a row.
        n_parents: roots: features that have children and no parent.
        n_children: of each parent.
        depth: levels below the roots; all but the last have children again.
        child_rate: probability that a parent brings one of them.
        n_true_pairs: pairs of which the first brings the second.
        n_spurious_pairs: pairs of which it does so in the documents of one topic, and in some
            phases.
        pair_rate: probability that it does.
        correlation: share of the variance of what makes a feature fire that it has in common with
            the others.
        correlation_rank: number of the factors of that part.
        n_topics: a document is about one of them.
        topical_share: share of the features that belong to a topic, very frequent ones apart.
        topic_gain: how many times as often these fire where their topic is spoken of.
        document_rows: mean length of a document.
        phase_rows: length of a phase; 0: the world is stationary.
        n_phases: that take turns and come back.
        active_phases: of a feature that drifts, and of a spurious pair.
        phase_gain: how many times as often the feature fires in them; elsewhere it fires so much
            less often that its rate over all phases stays.

    Raises:
        InvalidOption: an option is out of range.
    """

    d_in: int = 64
    n_features: int = 128
    orthogonal_steps: int = 0
    l0: float = 8.0
    zipf: float = 0.5
    rank_by: str = BY_CHANCE
    value_std: float = 0.25
    noise: float = 0.0
    n_parents: int = 8
    n_children: int = 3
    depth: int = 1
    child_rate: float = 0.7
    n_true_pairs: int = 8
    n_spurious_pairs: int = 8
    pair_rate: float = 0.5
    correlation: float = 0.0
    correlation_rank: int = 25
    n_topics: int = 8
    topical_share: float = 0.5
    topic_gain: float = 4.0
    document_rows: int = 256
    phase_rows: int = 0
    n_phases: int = 8
    active_phases: int = 4
    phase_gain: float = 2.0

    def __post_init__(self) -> None:
        whole = "d_in n_features n_topics document_rows n_children depth correlation_rank n_phases"
        for option in (*whole.split(), "active_phases"):
            keep_int(self, option, 1)
        if self.depth > MOST_LEVELS:
            raise InvalidOption("depth", self.depth, f"at most {MOST_LEVELS}")
        for option in (
            "n_parents",
            "n_true_pairs",
            "n_spurious_pairs",
            "phase_rows",
            "orthogonal_steps",
        ):
            keep_int(self, option, 0)
        for option in ("value_std", "noise"):
            check_number(option, getattr(self, option), maximum=LARGEST_SPREAD)
        check_number("zipf", self.zipf)
        if self.zipf * math.log10(self.n_features) > STEEPEST:
            steepest = math.floor(10 * STEEPEST / math.log10(self.n_features)) / 10
            allowed = f"at most {steepest:g} for {self.n_features} features: the last never fire"
            raise InvalidOption("zipf", self.zipf, allowed)
        for option in ("child_rate", "pair_rate", "topical_share"):
            check_number(option, getattr(self, option), maximum=1.0)
        check_number("correlation", self.correlation, maximum=MOST_IN_COMMON)
        check_choice("rank_by", self.rank_by, (BY_CHANCE, BY_ROLE))
        check_number("l0", self.l0, above=True)
        self._check_gains()
        if self.n_in_roles > self.n_features:
            allowed = f"at least {self.n_in_roles}, for the parents, children and pairs"
            raise InvalidOption("n_features", self.n_features, allowed)

    def _check_gains(self) -> None:
        check_number("topic_gain", self.topic_gain, minimum=1.0)
        if self.topic_gain > 1 and self.topic_gain >= self.n_topics:
            allowed = f"1, or less than n_topics, which is {self.n_topics}"
            raise InvalidOption("topic_gain", self.topic_gain, allowed)
        if self.active_phases > self.n_phases:
            allowed = f"at most n_phases, which is {self.n_phases}"
            raise InvalidOption("active_phases", self.active_phases, allowed)
        check_number("phase_gain", self.phase_gain, minimum=1.0)
        highest = self.n_phases / self.active_phases
        if self.phase_gain > highest:
            allowed = f"at most n_phases / active_phases, which is {highest:g}"
            raise InvalidOption("phase_gain", self.phase_gain, allowed)

    @property
    def levels(self) -> list[int]:
        """Number of the features of each level of the trees, the roots first."""
        return [self.n_parents * self.n_children**level for level in range(self.depth + 1)]

    @property
    def phases(self) -> int:
        """Number of the phases that differ, 1 of a stationary world."""
        return self.n_phases if self.phase_rows else 1

    @property
    def n_in_roles(self) -> int:
        """Number of the features of trees and pairs."""
        return sum(self.levels) + 2 * (self.n_true_pairs + self.n_spurious_pairs)


def check_memory(options: WorldOptions) -> None:
    """Refuse a world that takes more than is free while it is made.

    Raises:
        InvalidOption: of the largest size.
    """
    o, free = options, free_memory(torch.device("cpu"))
    # Directions before and after they are scaled; rates of each topic, and what they are made of.
    n_bytes = {
        "d_in": 2 * 4 * o.n_features * o.d_in,
        "n_topics": 3 * 8 * o.n_features * o.n_topics * o.phases,
        "orthogonal_steps": 4 * 8 * o.n_features**2 if o.orthogonal_steps else 0,
        "correlation_rank": 4 * o.n_features * o.correlation_rank if o.correlation else 0,
    }
    needed = sum(n_bytes.values()) + 16 * 8 * o.n_features
    if free is not None and needed > free.n_bytes:
        other = max(n_bytes, key=lambda name: n_bytes[name])
        option = max("n_features", other, key=lambda name: int(getattr(o, name)))
        allowed = f"smaller: the world takes {needed / MIB:,.0f} MiB of memory, and {free} are free"
        raise InvalidOption(option, getattr(o, option), allowed)
