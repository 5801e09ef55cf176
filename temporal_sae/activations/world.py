"""A world of features that are known to be true.

A row of activations is x = Σ v_i d_i over the features that fire in it, with unit directions d_i.
Features fire at rates that fall as a power of their rank. Some belong to a topic, and fire more
often in the documents that are about it. A parent has children of which it brings at most one, and
a child never fires without its parent. The first of a true pair brings the second along wherever it
fires; that of a spurious pair only in the documents of one topic.

Sampling costs what the features cost that fire, not all that there are. A rate p is met exactly by
Poisson counts of mean -ln(1 - p): their sum over all features is one Poisson draw, and each count
of it belongs to a feature with a probability proportional to that mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from temporal_sae.errors import InvalidOption, check_number, keep_int
from temporal_sae.latents import Latents
from temporal_sae.machine import MIB, free_memory
from temporal_sae.registry import component

LARGEST_RATE = 0.5
HIGHEST_IN_A_TOPIC = 0.9
SMALLEST_VALUE = 0.05
LARGEST_SPREAD = 1e6  # of values and noise: squares of rows stay finite in float32
STEEPEST = 24.0  # powers of ten from the first rate to the last that the bisection can tell apart


@component("activations.world")
@dataclass(frozen=True)
class WorldOptions:
    """Sizes and rates of a world.

    Attributes:
        d_in: width of the activations.
        n_features: more than `d_in` are in superposition.
        l0: features that fire in a row, on average.
        zipf: exponent of the rates; 0: all alike.
        value_std: standard deviation of a feature's values, whose mean is 1.
        noise: standard deviation of what is added to each component of a row.
        n_parents: features that have children.
        n_children: of each parent.
        child_rate: probability that a parent brings one of them.
        n_true_pairs: pairs of which the first brings the second.
        n_spurious_pairs: pairs of which it does so in the documents of one topic.
        pair_rate: probability that it does.
        n_topics: a document is about one of them.
        topical_share: share of the features that belong to a topic, very frequent ones apart.
        topic_gain: how many times as often these fire where their topic is spoken of.
        document_rows: mean length of a document.

    Raises:
        InvalidOption: an option is out of range.
    """

    d_in: int = 64
    n_features: int = 128
    l0: float = 8.0
    zipf: float = 0.5
    value_std: float = 0.25
    noise: float = 0.0
    n_parents: int = 8
    n_children: int = 3
    child_rate: float = 0.7
    n_true_pairs: int = 8
    n_spurious_pairs: int = 8
    pair_rate: float = 0.5
    n_topics: int = 8
    topical_share: float = 0.5
    topic_gain: float = 4.0
    document_rows: int = 256

    def __post_init__(self) -> None:
        for option in ("d_in", "n_features", "n_topics", "document_rows", "n_children"):
            keep_int(self, option, 1)
        for option in ("n_parents", "n_true_pairs", "n_spurious_pairs"):
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
        check_number("l0", self.l0, above=True)
        check_number("topic_gain", self.topic_gain, minimum=1.0)
        if self.topic_gain > 1 and self.topic_gain >= self.n_topics:
            allowed = f"1, or less than n_topics, which is {self.n_topics}"
            raise InvalidOption("topic_gain", self.topic_gain, allowed)
        if self._bound() > self.n_features:
            allowed = f"at least {self._bound()}, for the parents, children and pairs"
            raise InvalidOption("n_features", self.n_features, allowed)

    def _bound(self) -> int:
        pairs = self.n_true_pairs + self.n_spurious_pairs
        return self.n_parents * (1 + self.n_children) + 2 * pairs


class World:
    """The features of a world, and rows of it.

    Args:
        options: sizes and rates.
        seed: fixes the features.

    Attributes:
        directions: unit rows, float32 [n_features, d_in].
        rates: share of the rows in which a feature fires by itself, over all topics, [n_features].
        topics: the topic of each feature, -1 where it has none, [n_features].
        children: of each parent, [n_parents, n_children]; `parents` has their parents.
        true_pairs: (first, second), [n_true_pairs, 2].
        spurious_pairs: likewise; `spurious_topics` has the topic of each.

    Raises:
        InvalidOption: so many features cannot fire, or the world does not fit into memory.
    """

    def __init__(self, options: WorldOptions, seed: int) -> None:
        check_memory(options)
        self.options = options
        generator = torch.Generator().manual_seed(seed)
        n = options.n_features
        directions = torch.randn(n, options.d_in, generator=generator)
        self.directions = directions / directions.norm(dim=-1, keepdim=True)
        self._choose_roles(generator)
        self.topics = torch.randint(options.n_topics, (n,), generator=generator)
        has_none = torch.rand(n, generator=generator) >= options.topical_share
        self.topics[has_none] = -1
        self.rates = self._find_rates()
        # Where its topic is spoken of a feature must still be able to fire so much more often.
        self.topics[self.rates * options.topic_gain > HIGHEST_IN_A_TOPIC] = -1
        self._cumulative = self._by_topic()

    def _choose_roles(self, generator: torch.Generator) -> None:
        """Give features their roles, no feature two; rates fall with a feature's number."""
        o = self.options
        order = torch.randperm(o.n_features, generator=generator)
        sizes = [
            o.n_parents,
            o.n_parents * o.n_children,
            2 * o.n_true_pairs,
            2 * o.n_spurious_pairs,
        ]
        parents, children, true, spurious = order[: sum(sizes)].split(sizes)
        self.parents, self.children = parents, children.view(o.n_parents, o.n_children)
        self.true_pairs, self.spurious_pairs = true.view(-1, 2), spurious.view(-1, 2)
        n = o.n_spurious_pairs
        self.spurious_topics = torch.randint(o.n_topics, (n,), generator=generator)
        # For every feature: its place among the parents, and the partner that it brings along.
        self._parent_number = torch.full((o.n_features,), -1)
        self._parent_number[parents] = torch.arange(o.n_parents)
        self._partner = torch.full((o.n_features,), -1)
        self._partner_topic = torch.full((o.n_features,), -1)
        for pairs in (self.true_pairs, self.spurious_pairs):
            self._partner[pairs[:, 0]] = pairs[:, 1]
        self._partner_topic[self.spurious_pairs[:, 0]] = self.spurious_topics

    def _find_rates(self) -> Float[Tensor, " n_features"]:
        """Rates of which `l0` features fire in a row, with those that others bring along."""
        o = self.options
        shape = torch.arange(1, o.n_features + 1, dtype=torch.float64) ** -o.zipf
        shape[self.children.flatten()] = 0.0
        brings = torch.ones_like(shape)
        brings[self.parents] += o.child_rate
        brings[self.true_pairs[:, 0]] += o.pair_rate
        brings[self.spurious_pairs[:, 0]] += o.pair_rate / o.n_topics
        highest = LARGEST_RATE * float((brings * (shape > 0)).sum())
        if o.l0 > highest:
            allowed = f"at most {highest:.3g}, since no feature fires in more than half of the rows"
            raise InvalidOption("l0", o.l0, allowed)
        low, high = 0.0, o.l0 / float(shape[shape > 0].min())
        for _ in range(100):  # bisection: the sum grows with the factor
            factor = (low + high) / 2
            total = float(((factor * shape).clamp(max=LARGEST_RATE) * brings).sum())
            low, high = (factor, high) if total < o.l0 else (low, factor)
        return (high * shape).clamp(max=LARGEST_RATE)

    def _by_topic(self) -> Float[Tensor, "n_topics n_features"]:
        """Running sums of -ln(1 - p) over the features, for the documents of each topic.

        Over all topics a topical feature keeps its rate.
        """
        o = self.options
        outside = (o.n_topics - o.topic_gain) / max(1, o.n_topics - 1)
        gain = torch.ones(o.n_topics, o.n_features, dtype=torch.float64)
        topical = (self.topics >= 0).nonzero()[:, 0]
        if o.n_topics > 1:
            gain[:, topical] = outside
            gain[self.topics[topical], topical] = o.topic_gain
        return -torch.log1p(-gain * self.rates).cumsum(1)

    def sample(self, topics: Int[Tensor, " rows"], generator: torch.Generator) -> Latents:
        """Draw the features that fire in rows, ascending, and their values.

        Args:
            topics: that each row is about.
            generator: on the CPU.
        """
        o = self.options
        totals = self._cumulative[:, -1]
        counts = torch.poisson(totals[topics], generator=generator).long()
        row = torch.repeat_interleave(torch.arange(len(topics)), counts)
        topic = topics[row]
        drawn = torch.rand(len(row), dtype=torch.float64, generator=generator) * totals[topic]
        feature = torch.empty_like(row)
        for number in range(o.n_topics):
            of_topic = topic == number
            found = torch.searchsorted(self._cumulative[number], drawn[of_topic], right=True)
            feature[of_topic] = found.clamp(max=o.n_features - 1)
        key = (row * o.n_features + feature).unique()
        key = torch.cat([key, self._brought_along(key, topics, generator)]).unique()
        values = 1 + o.value_std * torch.randn(len(key), generator=generator)
        return in_rows(key, values.clamp(min=SMALLEST_VALUE), len(topics), o.n_features)

    def _brought_along(
        self, key: Int[Tensor, " n"], topics: Int[Tensor, " rows"], generator: torch.Generator
    ) -> Int[Tensor, " m"]:
        """Children of the parents that fire, and partners of the first of a pair."""
        o = self.options
        row, feature = key // o.n_features, key % o.n_features
        parent = self._parent_number[feature]
        chance = torch.rand(2, len(key), generator=generator)
        has_child = (parent >= 0) & (chance[0] < o.child_rate)
        which = torch.randint(o.n_children, (len(key),), generator=generator)
        children = self.children[parent[has_child], which[has_child]]
        only_in = self._partner_topic[feature]
        here = (only_in < 0) | (only_in == topics[row])
        has_partner = (self._partner[feature] >= 0) & here & (chance[1] < o.pair_rate)
        partners = self._partner[feature[has_partner]]
        rows = torch.cat([row[has_child], row[has_partner]])
        return rows * o.n_features + torch.cat([children, partners])


def check_memory(options: WorldOptions) -> None:
    """Refuse a world that takes more than is free while it is made.

    Raises:
        InvalidOption: of the largest size.
    """
    o, free = options, free_memory(torch.device("cpu"))
    # Directions before and after they are scaled; rates of each topic, and what they are made of.
    directions, rates = 2 * 4 * o.n_features * o.d_in, 3 * 8 * o.n_features * o.n_topics
    needed = directions + rates + 16 * 8 * o.n_features
    if free is not None and needed > free.n_bytes:
        other = "d_in" if directions > rates else "n_topics"
        option = max("n_features", other, key=lambda name: int(getattr(o, name)))
        allowed = f"smaller: the world takes {needed / MIB:,.0f} MiB of memory, and {free} are free"
        raise InvalidOption(option, getattr(o, option), allowed)


def in_rows(
    key: Int[Tensor, " n"], values: Float[Tensor, " n"], n_rows: int, n_features: int
) -> Latents:
    """Lists of equal length from sorted keys row * n_features + feature; -1 in empty slots."""
    row, feature = key // n_features, key % n_features
    counts = torch.bincount(row, minlength=n_rows)
    slot = torch.arange(len(key)) - (counts.cumsum(0) - counts)[row]
    width = max(1, int(counts.max())) if n_rows else 1
    indices = torch.full((n_rows, width), -1)
    indices[row, slot] = feature
    placed = torch.zeros(n_rows, width)
    placed[row, slot] = values
    return Latents(placed, indices)


def fires(latents: Latents, feature: int) -> Bool[Tensor, " rows"]:
    """Mark the rows in which a feature fires."""
    return ((latents.indices == feature) & (latents.values > 0)).any(-1)
