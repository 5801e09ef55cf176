"""Communities of latents against planted topics, and links against a dense computation."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from temporal_sae.atlas.absorption import Candidates
from temporal_sae.atlas.communities import Topics
from temporal_sae.atlas.counting import firing_counts
from temporal_sae.atlas.documents import DocumentCounts
from temporal_sae.atlas.pairs import Choice, Directions, pair_table
from tests.atlas.test_relations import written

N_TOKENS, N_LATENTS, N_TOPICS, DOCUMENT = 60_000, 512, 10, 200


def links_of(firings):
    """The links of all latents."""
    counts, documents = firing_counts(firings), DocumentCounts(firings)
    topics = Topics(documents, counts)
    nowhere = Directions(torch.zeros(firings.n_latents, 1), None)
    known = counts, documents, nowhere, Choice(), Candidates.none(firings.n_latents)
    for part in pair_table(firings, *known):
        topics.add(part)
    return topics


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Firings of which half are bound to topics, and the topic of each latent, -1 for none."""
    rng = np.random.default_rng(0)
    documents = np.repeat(np.arange(N_TOKENS // DOCUMENT), DOCUMENT)
    topics = rng.random((documents[-1] + 1, N_TOPICS)) < 0.15
    rates = rng.permutation(np.minimum(0.3, 12.0 / np.arange(6, N_LATENTS + 6)))
    topic = rng.integers(0, 2 * N_TOPICS, N_LATENTS)
    topic[topic >= N_TOPICS] = -1
    fires = np.zeros((N_TOKENS, N_LATENTS), bool)
    for latent, rate in enumerate(rates):
        if topic[latent] >= 0:
            own = topics[documents, topic[latent]]
            rate = np.where(own, min(0.5, 5 * rate), 0.3 * rate)
        fires[:, latent] = rng.random(N_TOKENS) < rate
    firings = written(tmp_path_factory.mktemp("topics"), fires, documents)
    return firings, fires, topic


def test_planted_topics_are_found_and_latents_without_one_are_left_out(planted):
    firings, _, topic = planted
    found = links_of(firings).communities()
    assert adjusted_rand_score(topic, found) >= 0.95
    assert (found[topic < 0] == -1).mean() >= 0.95
    sizes = np.bincount(found[found >= 0])
    assert sizes.tolist() == sorted(sizes, reverse=True)
    assert sizes.min() >= 3
    assert np.array_equal(found, links_of(firings).communities())


def test_links_are_correlations_of_rates_over_documents(planted):
    firings, fires, _ = planted
    rates = fires.reshape(-1, DOCUMENT, N_LATENTS).mean(1)
    expected = np.corrcoef(rates.T)
    links = links_of(firings).links
    for latent in (0, 17, 200):
        known = links.latents[latent] >= 0
        found = links.scores[latent][known]
        assert found == pytest.approx(expected[latent, links.latents[latent][known]])


def test_documents_count_by_their_length(tmp_path):
    documents = np.repeat([0, 1, 2], [2, 6, 4])
    fires = np.random.default_rng(0).random((12, 2)) < 0.5
    firings = written(tmp_path, fires, documents)
    known = DocumentCounts(firings)
    topics = Topics(known, firing_counts(firings))
    i, j = np.array([0]), np.array([1])
    expected = known.columns(i, j, np.array([0]))["expected_in_documents"]
    rates = np.stack([fires[documents == d].mean(0) for d in range(3)])
    covariance = np.cov(rates.T, aweights=[2, 6, 4])
    correlation = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    assert topics.correlation(i, j, expected) == pytest.approx([correlation])


def test_without_links_there_are_no_communities(tmp_path):
    """One document says nothing about topics."""
    fires = np.random.default_rng(0).random((400, 5)) < 0.5
    fires[:, 4] = True
    firings = written(tmp_path, fires, np.zeros(400, int))
    assert links_of(firings).communities().tolist() == [-1] * 5


def test_two_latents_are_no_community(planted):
    firings, _, _ = planted
    topics = Topics(DocumentCounts(firings), firing_counts(firings))
    columns = {"i": [0, 3, 3, 4], "j": [1, 4, 5, 5], "expected_in_documents": [1e5] * 4}
    topics.add(pa.table(columns))
    found = topics.communities()
    assert found[[0, 1]].tolist() == [-1, -1]
    assert found[[3, 4, 5]].tolist() == [0, 0, 0]
