"""Parents, children and duplicates against planted truth: rates by Zipf, topics, missed firings."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from temporal_sae.activations import Rows
from temporal_sae.atlas.absorption import Candidates
from temporal_sae.atlas.chance import dealt_out
from temporal_sae.atlas.counting import firing_counts
from temporal_sae.atlas.documents import LONGEST, DocumentCounts, numbers
from temporal_sae.atlas.firings import Firings, FiringsWriter
from temporal_sae.atlas.pairs import Choice, Directions, pair_table, relations_in
from temporal_sae.atlas.relations import (
    CHILD,
    DUPLICATE,
    PARENT,
    RELATIONS,
    Relatives,
    coverage,
    discoveries,
    false_discovery_rate,
    relation,
)
from temporal_sae.latents import Latents

N_LATENTS, N_TOKENS, N_TOPICS = 2048, 60_000, 20
N_PARENTS, N_DUPLICATES, MISSED = 150, 40, 0.1
CHILDREN = 3


def planted(rng):
    """Firings as a table of tokens and latents, the document of each token, and the relations."""
    documents = np.repeat(np.arange(N_TOKENS // 200), 200)
    topics = rng.random((documents[-1] + 1, N_TOPICS)) < 0.1
    rates = np.minimum(0.4, 3.0 / np.arange(1, N_LATENTS + 1))
    rng.shuffle(rates)
    topic = rng.integers(0, 2 * N_TOPICS, N_LATENTS)  # half of the latents have none
    of_topic = topic < N_TOPICS
    fires = np.zeros((N_TOKENS, N_LATENTS), bool)
    for latent in range(N_LATENTS):
        rate = np.full(N_TOKENS, rates[latent])
        if of_topic[latent]:
            own = topics[documents, topic[latent]]
            rate = np.where(own, np.minimum(0.5, 8 * rate), 0.2 * rate)
        fires[:, latent] = rng.random(N_TOKENS) < rate
    order = rng.permutation(N_LATENTS)
    frequent = [n for n in order if 0.01 < fires[:, n].mean() < 0.2]
    others = iter([n for n in order if n not in frequent])
    relations = {}
    for parent in frequent[:N_PARENTS]:
        for _ in range(CHILDREN):
            child = next(others)
            fires[:, child] = fires[:, parent] & (rng.random(N_TOKENS) < rng.uniform(0.1, 0.5))
            relations[parent, child] = "parent"
    for one in frequent[N_PARENTS : N_PARENTS + N_DUPLICATES]:
        other = next(others)
        fires[:, other] = fires[:, one]
        relations[one, other] = "duplicate"
    fires &= rng.random(fires.shape) >= MISSED
    inverse = {"parent": "child", "duplicate": "duplicate"}
    relations = {
        (i, j) if i < j else (j, i): r if i < j else inverse[r] for (i, j), r in relations.items()
    }
    return fires, documents, relations


def written(folder, fires, documents):
    """The firings of a table of tokens and latents."""
    writer = FiringsWriter(folder, fires.shape[1], {})
    places = np.stack([np.zeros_like(documents), documents, np.arange(len(documents))], 1)
    for first in range(0, len(fires), 4096):
        part = torch.from_numpy(fires[first : first + 4096])
        rows = Rows(torch.zeros(len(part), 1), torch.from_numpy(places[first : first + 4096]).int())
        writer.add(rows, Latents.from_dense(part.float()))
    writer.note({})
    return Firings(folder, fires.shape[1], window_size=1000)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    fires, documents, truth = planted(np.random.default_rng(0))
    return written(folder, fires, documents), truth


def found_in(firings, documents):
    """The relations that the table of pairs has."""
    nowhere = Directions(torch.zeros(firings.n_latents, 1), None)
    known = firing_counts(firings), documents, nowhere, Choice()
    found = {}
    for part in pair_table(firings, *known, Candidates.none(firings.n_latents)):
        columns = (part[name].to_pylist() for name in ("i", "j", "relation"))
        found |= {(i, j): name for i, j, name in zip(*columns, strict=True) if name}
    return found


def test_planted_relations_are_found_and_the_printed_rate_covers_the_false_ones(world):
    firings, truth = world
    documents = DocumentCounts(firings)
    found = found_in(firings, documents)
    counts = firing_counts(firings)
    dealt = dealt_out(firings, documents)
    nobody = Candidates.none(firings.n_latents)
    by_chance = relations_in(dealt, counts, documents, Choice(), nobody)
    for names in (("parent", "child"), ("duplicate",)):
        ours = {pair for pair, name in found.items() if name in names}
        wanted = {pair for pair, name in truth.items() if name in names}
        right = {pair for pair in ours & wanted if found[pair] == truth[pair]}
        precision, recall = len(right) / len(ours), len(right) / len(wanted)
        assert precision >= 0.9, (names, precision, recall)
        assert recall >= 0.9, (names, precision, recall)
        rate = false_discovery_rate(len(ours), sum(by_chance[RELATIONS.index(n)] for n in names))
        assert rate >= 1 - precision or 1 - precision < 0.01, (names, rate, precision)


def test_dealing_out_keeps_what_latents_do_in_documents_alone(world):
    firings, _ = world
    documents = DocumentCounts(firings)
    dealt = dealt_out(firings, documents, seed=1)
    table = np.zeros((firings.n_tokens, firings.n_latents), bool)
    tokens = np.repeat(np.arange(firings.n_tokens), np.diff(dealt.starts))
    assert not table[tokens, dealt.latents].any()
    table[tokens, dealt.latents] = True
    assert table.sum() == firings.n_firings  # no latent twice in a token
    number = documents.number
    for latent in (0, 7, 100):
        own = firings.latents == latent
        before = np.repeat(number, np.diff(firings.starts))[own]
        after = number[np.flatnonzero(table[:, latent])]
        assert np.bincount(before, minlength=9).tolist() == np.bincount(after, minlength=9).tolist()
    rows = np.split(np.asarray(dealt.latents).astype(int), dealt.starts[1:-1])
    assert all((np.diff(row) > 0).all() for row in rows[:2000])
    again = dealt_out(firings, documents, seed=1)
    assert np.array_equal(again.latents, dealt.latents)
    assert not np.array_equal(firings.latents, dealt.latents)


def test_coverage_by_hand():
    """j fires in 100 tokens, i in 90 of them, and chance would have it in 20."""
    assert coverage(np.array(90), np.array(20.0), np.array(100)) == pytest.approx(70 / 80)
    assert np.isnan(coverage(np.array(100), np.array(100.0), np.array(100)))


@pytest.mark.parametrize(
    ("i_covers_j", "j_covers_i", "z", "expected"),
    [
        (0.8, 0.1, 9.0, PARENT),
        (0.1, 0.8, 9.0, CHILD),
        (0.8, 0.8, 9.0, DUPLICATE),
        (0.6, 0.6, 9.0, 0),
        (0.8, 0.1, 3.0, 0),
        (0.7, 0.69, 6.0, PARENT),
        (0.69, 0.1, 9.0, 0),
        (0.8, 0.1, 5.9, 0),
        (np.nan, 0.1, 9.0, 0),
        (0.8, 0.1, np.nan, 0),
    ],
)
def test_relations_by_hand(i_covers_j, j_covers_i, z, expected):
    assert relation(*map(np.array, (i_covers_j, j_covers_i, z))) == expected


def test_pairs_are_counted_by_their_relation():
    relatives = Relatives(3)
    names = [None, "parent", None, "duplicate"]
    relatives.add(pa.table({"i": [0, 0, 1, 1], "j": [1, 2, 2, 2], "relation": names}))
    assert relatives.found.tolist() == [2, 1, 0, 1, 0, 0]


def test_a_long_document_counts_as_several():
    documents = np.repeat([5, 6, 9], [10, 2 * LONGEST + 1, 3])
    found = numbers(documents)
    assert np.bincount(found).tolist() == [10, LONGEST, LONGEST, 1, 3]


def test_what_is_said_of_false_discoveries():
    found, by_chance = np.array([5, 30, 20, 0, 3, 1]), np.array([9, 0, 1, 0, 0, 0])
    assert discoveries(found, by_chance) == [
        "50 pairs look like parent and child; by chance 1 would: false discovery rate at most 0.04",
        "0 pairs look like duplicates; by chance 0 would",
        "4 pairs look like absorber and absorbed; by chance 0 would: "
        "false discovery rate at most 0.25",
    ]
