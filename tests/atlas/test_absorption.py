"""Absorbers and absorbed latents against planted truth, in a trained SAE, and by hand."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import average_precision_score

from temporal_sae.activations import Rows
from temporal_sae.activations.world import World, WorldOptions
from temporal_sae.atlas.absorption import Candidates, looks_absorbed
from temporal_sae.atlas.chance import dealt_out
from temporal_sae.atlas.counting import firing_counts
from temporal_sae.atlas.documents import DocumentCounts
from temporal_sae.atlas.firings import Firings, FiringsWriter
from temporal_sae.atlas.nearest import nearest_by_cosine
from temporal_sae.atlas.pairs import Choice, Directions, pair_table, relations_in
from temporal_sae.atlas.relations import (
    ABSORBED,
    ABSORBER,
    RELATIONS,
    Relatives,
    false_discovery_rate,
)
from temporal_sae.eval.ground_truth import match
from temporal_sae.kernels.sparse_products import decode_rows
from temporal_sae.sae import TopKSAE
from tests.atlas.test_relations import written

N_LATENTS, N_TOKENS, N_TOPICS, D_IN, DOCUMENT = 768, 100_000, 20, 96, 200
N_PARENTS, N_CHILDREN, N_OTHERS, MISSED = 50, 3, 40, 0.1


class Planted:
    """Latents with rates by Zipf, half of them bound to topics; some absorb parts of others.

    Four kinds only resemble that: children whose parents are not silent, pairs that overlap in
    direction and fire independently, pairs that exclude each other and do not overlap, and the
    children of one parent, which overlap and exclude each other.

    Attributes:
        truth: (absorber, absorbed); the latter is silent in half of the tokens and more.
    """

    def __init__(self, rng):
        self.rng, self.truth = rng, set()
        self.documents = np.repeat(np.arange(N_TOKENS // DOCUMENT), DOCUMENT)
        self.fires = self.by_topic()
        directions = torch.from_numpy(rng.normal(size=(N_LATENTS, D_IN))).float()
        self.directions = torch.nn.functional.normalize(directions)
        density = self.fires.mean(0)
        is_parent = (density > 0.03) & (density < 0.3)
        frequent = iter(rng.permutation(np.flatnonzero(is_parent)))
        rare = iter(rng.permutation(np.flatnonzero(density <= 0.03)))
        for number in range(N_PARENTS):
            is_total = number % 2
            self.absorb(next(frequent), [next(rare) for _ in range(N_CHILDREN)], is_total)
        for _ in range(N_OTHERS):
            parent, child, other, apart = next(frequent), next(rare), next(rare), next(rare)
            self.fires[:, child] = self.some(parent, 0.1, 0.5)
            self.overlap(child, parent)
            self.overlap(other, parent)
            self.fires[:, apart] &= ~self.fires[:, parent]
        self.fires &= rng.random(self.fires.shape) >= MISSED

    def by_topic(self):
        """Firings of all latents, a column each."""
        topics = self.rng.random((self.documents[-1] + 1, N_TOPICS)) < 0.1
        topic = self.rng.integers(0, 2 * N_TOPICS, N_LATENTS)
        rates = np.minimum(0.3, 12.0 / np.arange(6, N_LATENTS + 6))
        fires = np.zeros((N_TOKENS, N_LATENTS), bool)
        for latent, rate in enumerate(rates):
            if topic[latent] < N_TOPICS:
                own = topics[self.documents, topic[latent]]
                rate = np.where(own, min(0.5, 8 * rate), 0.2 * rate)
            fires[:, latent] = self.rng.random(N_TOKENS) < rate
        return fires

    def some(self, latent, low, high):
        """A share of its tokens."""
        return self.fires[:, latent] & (self.rng.random(N_TOKENS) < self.rng.uniform(low, high))

    def overlap(self, child, parent):
        """Add some of the parent's direction to that of the child: cosines of .5 to .8."""
        self.directions[child] += self.rng.uniform(0.6, 1.2) * self.directions[parent]
        self.directions[child] /= self.directions[child].norm()

    def absorb(self, parent, children, is_total):
        """Let children fire in a part of what the parent stands for, which is then silent."""
        of_children = [self.some(parent, 0.05, 0.2) for _ in children]
        for child, fires in zip(children, of_children, strict=True):
            self.fires[:, child] = fires
            share = 1.0 if is_total else self.rng.uniform(0.5, 0.9)
            self.fires[:, parent] &= ~(fires & (self.rng.random(N_TOKENS) < share))
            self.overlap(child, parent)
            self.truth.add((child, parent))


class Found:
    """Return what the table of pairs says of some firings, and how often it says so by chance."""

    def __init__(self, firings, directions):
        counts, documents = firing_counts(firings), DocumentCounts(firings)
        candidates = Candidates.of(*nearest_by_cosine(directions), counts)
        known = counts, documents, Directions(directions, None), Choice(), candidates
        table = pa.concat_tables(pair_table(firings, *known))
        self.rows = {(r["i"], r["j"]): r for r in table.to_pylist()}
        self.absorptions = {
            (i, j) if r["relation"] == "absorber" else (j, i)
            for (i, j), r in self.rows.items()
            if r["relation"] in ("absorber", "absorbed")
        }
        self.counts = relations_in(firings, counts, documents, Choice(), candidates)
        dealt = dealt_out(firings, documents)
        by_chance = relations_in(dealt, counts, documents, Choice(), candidates)
        self.by_chance = int(by_chance[ABSORBER] + by_chance[ABSORBED])

    def precision_and_recall(self, truth):
        """Of absorber and absorbed, in this order."""
        right = len(self.absorptions & truth)
        return right / len(self.absorptions), right / len(truth)


def average_precision(scores, truth):
    """Of scores of all pairs, a symmetric matrix."""
    i, j = np.triu_indices(len(scores), 1)
    wanted = np.zeros(scores.shape, bool)
    for a, b in truth:
        wanted[a, b] = wanted[b, a] = True
    return average_precision_score(wanted[i, j], scores[i, j])


@pytest.fixture(scope="module")
def planted():
    return Planted(np.random.default_rng(0))


@pytest.fixture(scope="module")
def found(planted, tmp_path_factory):
    firings = written(tmp_path_factory.mktemp("planted"), planted.fires, planted.documents)
    return Found(firings, planted.directions)


def test_planted_absorption_is_found_and_what_resembles_it_is_not(planted, found):
    precision, recall = found.precision_and_recall(planted.truth)
    assert precision >= 0.95, (precision, recall)
    assert recall >= 0.65, (precision, recall)
    rate = false_discovery_rate(len(found.absorptions), found.by_chance)
    assert rate >= 1 - precision or 1 - precision < 0.01, (rate, precision)


def test_pairs_that_never_fire_together_are_rows_too(planted, found):
    fires = planted.fires
    never = {p for p in found.absorptions if not (fires[:, p[0]] & fires[:, p[1]]).any()}
    assert len(never) > 20
    for i, j in (tuple(sorted(pair)) for pair in never):
        row = found.rows[i, j]
        assert (row["n_ij"], row["npmi"], row["lift"]) == (0, -1, 0)
        assert row["n_i"] == fires[:, i].sum()
        assert np.isnan(row["fano_factor"])
    assert list(found.rows) == sorted(found.rows)
    listed = {pair for pair, row in found.rows.items() if row["n_ij"] < Choice().min_count}
    assert listed <= {tuple(sorted(pair)) for pair in found.absorptions}


def test_chance_is_judged_as_the_table_is(found):
    """Of the same firings, both find the same."""
    names = [row["relation"] or "" for row in found.rows.values()]
    assert found.counts.tolist() == [names.count(name) for name in RELATIONS]


def test_the_criterion_ranks_better_than_the_scores_that_need_no_threshold(planted, found):
    cosine = (planted.directions @ planted.directions.T).numpy()
    fires = planted.fires.astype(np.float32)
    together = fires.T @ fires / N_TOKENS
    ours = np.zeros_like(cosine)
    for a, b in found.absorptions:
        ours[a, b] = ours[b, a] = cosine[a, b]
    precisions = [average_precision(s, planted.truth) for s in (ours, cosine, together * cosine**2)]
    assert precisions == sorted(precisions, reverse=True), precisions


@pytest.mark.slow
def test_absorption_that_training_brought_about(tmp_path):
    """A TopK SAE learns a world with parents and children, and merges many of them."""
    generator, options = torch.Generator().manual_seed(1), WorldOptions()
    world = World(options, 0)

    def rows():
        topics = torch.randint(options.n_topics, (4,), generator=generator).repeat_interleave(256)
        features = world.sample(topics, generator)
        return features, decode_rows(features.values, features.indices, world.directions)

    torch.manual_seed(0)
    sae = TopKSAE(options.d_in, options.n_features, 8)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-3)
    for _ in range(1200):
        x = rows()[1]
        optimizer.zero_grad()
        (x - sae.decode(sae.encode(x))).square().sum(-1).mean().backward()
        optimizer.step()
        with torch.no_grad():
            sae.W_dec /= sae.W_dec.norm(dim=-1, keepdim=True)
    W_dec = sae.W_dec.detach()
    writer, features, active = FiringsWriter(tmp_path, sae.d_sae, {}), [], []
    for n in range(100):
        true, x = rows()
        with torch.no_grad():
            latents = sae.encode(x)
        document = torch.arange(4 * n, 4 * n + 4).repeat_interleave(256)
        places = torch.stack([torch.zeros(1024), document, torch.arange(1024)], 1).int()
        writer.add(Rows(x, places), latents)
        features.append(dense(true, options.n_features))
        active.append(dense(latents, sae.d_sae))
    writer.note({})
    latent, cosine = match(world.directions, W_dec)
    truth = absorbed_in(world, latent, cosine, np.concatenate(features), np.concatenate(active))
    found = Found(Firings(tmp_path, sae.d_sae, 1000), torch.nn.functional.normalize(W_dec))
    precision, recall = found.precision_and_recall(truth)
    assert min(precision, recall) >= 0.7, (precision, recall)


def dense(latents, n):
    """A row a token: which are active."""
    table = torch.zeros(len(latents.indices), n + 1, dtype=torch.bool)
    table.scatter_(1, torch.where(latents.values > 0, latents.indices, n).long(), True)
    return table[:, :n].numpy()


def absorbed_in(world, latent, cosine, fires, active):
    """(child's latent, parent's latent), where the latter is silent in .3 of the child's rows."""
    found = set()
    for parent, children in zip(world.parents.tolist(), world.children.tolist(), strict=True):
        for child in children:
            own = fires[:, child] & active[:, latent[child]]
            silent = (own & ~active[:, latent[parent]]).sum() / max(own.sum(), 1)
            if silent > 0.3 and min(cosine[parent], cosine[child]) > 0.5:
                found.add((int(latent[child]), int(latent[parent])))
    return found


@pytest.mark.parametrize(
    ("n_ij", "expected", "z", "covered", "looks"),
    [
        (0, 20.0, -4.5, -0.1, True),
        (15, 20.0, -4.5, -0.1, True),
        (16, 20.0, -4.5, -0.1, False),
        (0, 15.0, -3.9, -0.1, False),
        (40, 10.0, 9.0, 0.3, True),
        (40, 10.0, 3.9, 0.3, False),
        (9, 1.0, 9.0, 0.3, False),
        (40, 10.0, 9.0, 0.09, False),
        (90, 10.0, 9.0, 0.7, False),
        (0, 0.0, np.nan, 0.0, False),
        (40, 40.0, 9.0, np.nan, False),
    ],
)
def test_the_criterion_by_hand(n_ij, expected, z, covered, looks):
    assert looks_absorbed(*map(np.array, (n_ij, expected, z, covered))) == looks


def test_candidates_by_hand():
    """The nearest that is more frequent, if the cosine is high; latent 3 never fires."""
    counts = np.array([100, 30, 50, 0, 40])
    nearest = np.array([[2, 1], [4, 2], [1, 0], [0, 1], [1, 0]])
    cosines = np.array([[0.9, 0.8], [0.7, 0.6], [0.8, 0.5], [0.9, 0.8], [0.7, 0.39]])
    found = Candidates.of(nearest, cosines, counts)
    assert found.keys.tolist() == [0 * 5 + 2, 1 * 5 + 4]
    assert found.i_is_rarer.tolist() == [False, True]
    i, j = np.array([0, 0, 1, 2]), np.array([1, 2, 3, 4])
    places, which = found.among(i, j)
    assert (places.tolist(), which.tolist()) == ([1], [0])


def test_no_candidates_where_there_is_one_latent():
    found = Candidates.of(np.empty((1, 0), np.int32), np.empty((1, 0)), np.array([3]))
    assert not len(found.keys)


def test_each_is_listed_with_the_other():
    relatives = Relatives(3)
    names = ["absorber", "absorbed"]
    relatives.add(pa.table({"i": [0, 1], "j": [1, 2], "relation": names}))
    columns = relatives.columns()
    assert columns["absorbers"] == [[], [0, 2], []]
    assert columns["absorbed"] == [[1], [], [1]]
    assert relatives.found[[ABSORBER, ABSORBED]].tolist() == [1, 1]
