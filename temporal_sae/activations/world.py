"""A world of features that are known to be true.

A row of activations is x = Σ v_i d_i over the features that fire in it, with unit directions d_i.
Features fire at rates that fall as a power of their rank. Some belong to a topic, and fire more
often in the documents that are about it. A parent has children of which it brings at most one, and
a child never fires without its parent; children may be parents again. The first of a true pair
brings the second along wherever it fires; that of a spurious pair only in the documents of one
topic. Where the world drifts, rows are cut into phases: in each of them some features are active
and the others are not, and some of the spurious pairs hold. True pairs and trees always hold.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from temporal_sae.activations.directions import draw_directions
from temporal_sae.activations.firing import Firing, Independent, Together, in_rows
from temporal_sae.activations.world_options import BY_CHANCE, WorldOptions, check_memory
from temporal_sae.errors import InvalidOption
from temporal_sae.latents import Latents

LARGEST_RATE = 0.5
HIGHEST_AT_TIMES = 0.9  # of a rate that topic and phase have raised
SMALLEST_VALUE = 0.05


class World:
    """The features of a world, and rows of it.

    Args:
        options: sizes and rates.
        seed: fixes the features.

    Attributes:
        directions: unit rows, float32 [n_features, d_in].
        rates: share of the rows in which a feature fires by itself, over all topics and phases,
            [n_features].
        topics: the topic of each feature, -1 where it has none, [n_features].
        parent_of: the parent of each feature, -1 where it has none, [n_features].
        parents: those that have children, level by level, [n_parents]; `children` has theirs,
            [n_parents, n_children].
        true_pairs: (first, second), [n_true_pairs, 2].
        spurious_pairs: likewise; `spurious_topics` has the topic of each, and `spurious_phases`
            marks the phases in which it holds, [n_spurious_pairs, n_phases].
        active: marks the phases in which a feature is active, [n_features, n_phases]; all of those
            of a feature that does not drift.

    Raises:
        InvalidOption: so many features cannot fire, or the world does not fit into memory.
    """

    def __init__(self, options: WorldOptions, seed: int) -> None:
        check_memory(options)
        self.options = options
        generator = torch.Generator().manual_seed(seed)
        n, steps = options.n_features, options.orthogonal_steps
        self.directions = draw_directions(n, options.d_in, steps, generator)
        self._choose_roles(generator)
        self.topics = torch.randint(options.n_topics, (n,), generator=generator)
        has_none = torch.rand(n, generator=generator) >= options.topical_share
        self.topics[has_none] = -1
        self.rates = self._find_rates()
        # Where its topic is spoken of a feature must still be able to fire so much more often.
        self.topics[self.rates * options.topic_gain > HIGHEST_AT_TIMES] = -1
        self._choose_phases(generator)
        rates = self._at_times()
        self._firing: Firing = Independent(rates)
        if options.correlation:
            self._firing = Together(rates, options.correlation, options.correlation_rank, generator)

    def _choose_roles(self, generator: torch.Generator) -> None:
        """Give features their roles, no feature two; rates fall with a feature's number."""
        o = self.options
        n = o.n_features
        by_chance = o.rank_by == BY_CHANCE
        order = torch.randperm(n, generator=generator) if by_chance else torch.arange(n)
        *levels, true, spurious, free = order.split(
            [*o.levels, 2 * o.n_true_pairs, 2 * o.n_spurious_pairs, n - o.n_in_roles]
        )
        self.parents = torch.cat(levels[:-1])
        self.children = torch.cat(levels[1:]).view(-1, o.n_children)
        self.parent_of = torch.full((n,), -1)
        self.parent_of[self.children] = self.parents[:, None].expand_as(self.children)
        self.true_pairs, self.spurious_pairs = true.view(-1, 2), spurious.view(-1, 2)
        self.spurious_topics = torch.randint(o.n_topics, (o.n_spurious_pairs,), generator=generator)
        self._roots = levels[0]
        self._may_drift = torch.cat([self._roots, self.true_pairs[:, 0], free])
        # For every feature: its place among the parents, and the partner that it brings along.
        self._parent_number = torch.full((n,), -1)
        self._parent_number[self.parents] = torch.arange(len(self.parents))
        self._partner = torch.full((n,), -1)
        for pairs in (self.true_pairs, self.spurious_pairs):
            self._partner[pairs[:, 0]] = pairs[:, 1]

    def _find_rates(self) -> Float[Tensor, " n_features"]:
        """Rates of which `l0` features fire in a row, with those that others bring along."""
        o = self.options
        shape = torch.arange(1, o.n_features + 1, dtype=torch.float64) ** -o.zipf
        shape[self.children.flatten()] = 0.0
        brings = torch.ones_like(shape)
        brings[self._roots] += sum(o.child_rate**level for level in range(1, o.depth + 1))
        brings[self.true_pairs[:, 0]] += o.pair_rate
        holds = o.active_phases / o.n_phases if o.phase_rows else 1.0
        brings[self.spurious_pairs[:, 0]] += holds * o.pair_rate / o.n_topics
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

    def _choose_phases(self, generator: torch.Generator) -> None:
        """Give each feature that drifts, and each spurious pair, as many phases as the others."""
        o = self.options
        self.active = torch.ones(o.n_features, o.phases, dtype=torch.bool)
        self.spurious_phases = torch.ones(o.n_spurious_pairs, o.phases, dtype=torch.bool)
        if not o.phase_rows:
            return
        highest = self.rates * o.phase_gain
        highest[self.topics >= 0] *= o.topic_gain
        drifts = self._may_drift[highest[self._may_drift] <= HIGHEST_AT_TIMES]
        self.active[drifts] = some_of(len(drifts), o.active_phases, o.phases, generator)
        self.spurious_phases = some_of(o.n_spurious_pairs, o.active_phases, o.phases, generator)

    def _at_times(self) -> Float[Tensor, "n_times n_features"]:
        """Rates in each phase and, within it, topic, and which partners come there.

        Over all topics and phases a feature keeps its rate.
        """
        o = self.options
        gain = torch.ones(o.n_topics, o.n_features, dtype=torch.float64)
        topical = (self.topics >= 0).nonzero()[:, 0]
        if o.n_topics > 1:
            gain[:, topical] = (o.n_topics - o.topic_gain) / (o.n_topics - 1)
            gain[self.topics[topical], topical] = o.topic_gain
        of_phase = torch.ones(o.phases, o.n_features, dtype=torch.float64)
        drifts = ~self.active.all(1)
        if drifts.any():
            rest = max(0.0, o.n_phases - o.active_phases * o.phase_gain)
            rest /= o.n_phases - o.active_phases
            active = self.active[drifts].T.double()
            of_phase[:, drifts] = rest + (o.phase_gain - rest) * active
        brings = (self._partner >= 0).expand(o.phases, o.n_topics, -1).clone()
        topics = torch.arange(o.n_topics)[:, None] == self.spurious_topics
        holds = self.spurious_phases.T[:, None] & topics
        brings[:, :, self.spurious_pairs[:, 0]] = holds
        self._brings = brings.view(-1, o.n_features)
        return (of_phase[:, None] * gain).view(-1, o.n_features) * self.rates

    def sample(
        self,
        topics: Int[Tensor, " rows"],
        generator: torch.Generator,
        phases: Int[Tensor, " rows"] | None = None,
    ) -> Latents:
        """Draw the features that fire in rows, ascending, and their values.

        Args:
            topics: that each row is about.
            generator: on the CPU.
            phases: of each row; None: all rows are of the first.
        """
        o = self.options
        times = topics if phases is None else phases * o.n_topics + topics
        key = self._firing.draw(times, generator)
        key = torch.cat([key, self._brought_along(key, times, generator)]).unique()
        values = 1 + o.value_std * torch.randn(len(key), generator=generator)
        return in_rows(key, values.clamp(min=SMALLEST_VALUE), len(topics), o.n_features)

    def _brought_along(
        self, key: Int[Tensor, " n"], times: Int[Tensor, " rows"], generator: torch.Generator
    ) -> Int[Tensor, " m"]:
        """Return the partners of the first of a pair, and the children of what fires, theirs …"""
        o = self.options
        row, feature = key // o.n_features, key % o.n_features
        chance = torch.rand(2, len(key), generator=generator)
        children = self._children(key, chance[0], generator)
        comes = self._brings[times[row], feature] & (chance[1] < o.pair_rate)
        partners = row[comes] * o.n_features + self._partner[feature[comes]]
        brought = [children, partners]
        for _ in range(1, o.depth):
            chance = torch.rand(len(children), generator=generator)
            children = self._children(children, chance, generator)
            brought.append(children)
        return torch.cat(brought)

    def _children(
        self, key: Int[Tensor, " n"], chance: Float[Tensor, " n"], generator: torch.Generator
    ) -> Int[Tensor, " m"]:
        o = self.options
        row, parent = key // o.n_features, self._parent_number[key % o.n_features]
        has_child = (parent >= 0) & (chance < o.child_rate)
        which = torch.randint(o.n_children, (len(key),), generator=generator)
        children = self.children[parent[has_child], which[has_child]]
        return row[has_child] * o.n_features + children


def some_of(
    n: int, n_chosen: int, n_all: int, generator: torch.Generator
) -> Bool[Tensor, "n n_all"]:
    """Mark `n_chosen` of `n_all` in each of n rows, at random."""
    order = torch.rand(n, n_all, generator=generator).argsort(1)
    return order < n_chosen
