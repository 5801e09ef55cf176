"""Measures against the features of a world, on dictionaries that are made of its directions."""

import pytest
import torch

from temporal_sae.activations import SyntheticActivations, WorldOptions
from temporal_sae.errors import InvalidOption
from temporal_sae.eval import GroundTruthEvaluation
from temporal_sae.eval.ground_truth import match
from temporal_sae.sae import TopKSAE
from tests.eval.ground_truth.by_hand import dictionary

N = 24
WORLD = WorldOptions(
    d_in=N, n_features=N, l0=3.0, n_parents=2, n_children=2, n_true_pairs=2, n_spurious_pairs=1
)
EVALUATION = GroundTruthEvaluation(n_sequences=200, batch_sequences=50)


@pytest.fixture(scope="module")
def source():
    """A world whose directions are at right angles, so that a dictionary can be perfect."""
    source = SyntheticActivations(WORLD)
    source.open()
    source.truth.directions = torch.linalg.qr(source.truth.directions.T).Q.T.contiguous()
    source._directions = source.truth.directions
    return source


def measure(sae, source):
    return EVALUATION.measure(sae, source)["metrics"]


def test_the_true_directions_are_perfect(source):
    found = EVALUATION.measure(dictionary(source.truth.directions), source)
    perfect = {"mcc": 1, "f1": 1, "precision": 1, "recall": 1, "absorption": 0}
    assert {name: found["metrics"][name] for name in perfect} == pytest.approx(perfect, abs=1e-5)
    assert found["matches"]["latent"] == list(range(N))


def test_the_order_and_the_sign_of_latents_do_not_matter_to_the_match(source):
    order = torch.randperm(N)
    directions = source.truth.directions
    metrics = measure(dictionary(directions[order]), source)
    assert metrics["mcc"] == pytest.approx(1, abs=1e-5)
    assert metrics["f1"] == pytest.approx(1, abs=1e-5)
    latent, cosine = match(directions, -directions[order])
    assert torch.equal(order[latent], torch.arange(N))
    assert torch.allclose(cosine, torch.ones(N))


def test_features_without_a_latent_count_zero(source):
    """Half of the directions: MCC is over the latents there are, F1 over all features."""
    found = EVALUATION.measure(dictionary(source.truth.directions[: N // 2]), source)
    assert found["metrics"]["mcc"] == pytest.approx(1, abs=1e-5)
    assert found["matches"]["latent"] == [*range(N // 2), *[-1] * (N // 2)]
    assert sum(found["matches"]["f1"]) == pytest.approx(N // 2, abs=1e-4)


def test_two_features_merged_into_one_latent(source):
    """A latent that reads and writes the sum of two: cosine 1/√2 with each, one is matched."""
    directions = source.truth.directions
    first, second = unrelated(source.truth)
    merged = (directions[first] + directions[second]) / 2**0.5
    rows = torch.cat([directions[[n for n in range(N) if n not in (first, second)]], merged[None]])
    found = EVALUATION.measure(dictionary(rows), source)
    assert found["metrics"]["mcc"] == pytest.approx((N - 2 + 0.5**0.5) / (N - 1), abs=1e-5)
    matched = [n for n in (first, second) if found["matches"]["latent"][n] >= 0]
    assert len(matched) == 1
    p, q = (share_of(source, n) for n in (matched[0], ({first, second} - {matched[0]}).pop()))
    either = p + q - share_of(source, first, second)
    f1 = found["matches"]["f1"][matched[0]]
    assert f1 == pytest.approx(2 * p / (p + either), rel=0.02)


def test_a_feature_split_into_two_latents(source):
    """Both write its direction, each where its value is on one side of 1: recall is that share."""
    directions = source.truth.directions
    feature = int(source.truth.rates.argmax())
    others = [n for n in range(N) if n != feature]
    sae = dictionary(torch.cat([directions[others], directions[[feature, feature]]]))
    sae.b_enc.data[-1] = -1.0  # fires for values above 1, half of them
    sae.W_enc.data[:, -2] = 0.0  # and its twin never does
    found = EVALUATION.measure(sae, source)
    latent = found["matches"]["latent"][feature]
    f1 = found["matches"]["f1"][feature]
    assert found["metrics"]["mcc"] == pytest.approx(1, abs=1e-5)
    assert f1 == pytest.approx(2 / 3 if latent == N else 0, abs=0.03)


def test_absorbed_children_keep_their_parents_silent(source):
    """The child's latent writes child + parent, and the parent's is off where a child is."""
    world, directions = source.truth, source.truth.directions
    parent, children = int(world.parents[0]), world.children[0]
    W_enc = directions.T.clone()
    W_enc[:, parent] -= 40 * directions[children].sum(0)
    W_dec = directions.clone()
    W_dec[children] = (directions[children] + 0.3 * directions[parent]) / 1.09**0.5
    found = measure(dictionary(W_dec, W_enc), source)
    assert found["absorption"] == pytest.approx(0.5, abs=0.01)  # one of two parents, always
    assert found["recall"] < 1
    assert found["precision"] == pytest.approx(1)


def test_a_silent_dictionary_scores_nothing(source):
    sae = dictionary(source.truth.directions, b_enc=torch.full((N,), -1e6))
    metrics = measure(sae, source)
    assert metrics["mcc"] == pytest.approx(1, abs=1e-5)  # directions alone
    assert metrics["f1"] == metrics["recall"] == metrics["precision"] == metrics["absorption"] == 0


def test_random_directions_match_little_in_a_wide_space():
    torch.manual_seed(0)
    _, cosine = match(torch.randn(20, 4000), torch.randn(30, 4000))
    assert float(cosine.max()) < 0.1


@pytest.mark.parametrize("option", ["n_sequences", "batch_sequences"])
def test_bad_options(option):
    with pytest.raises(InvalidOption, match=option):
        GroundTruthEvaluation(**{option: 0})


def share_of(source, *features):
    """Share of the held-out rows in which all of these fire."""
    n, both = 0, 0
    for rows, found in source.held_out_with_truth(200, 50):
        dense = found.to_dense(N) > 0
        both += int(dense[:, list(features)].all(1).sum())
        n += len(rows)
    return both / n


def unrelated(world):
    """Two features that have nothing to do with each other or with others."""
    taken = {*world.parents.tolist(), *world.children.flatten().tolist()}
    taken |= {*world.true_pairs.flatten().tolist(), *world.spurious_pairs.flatten().tolist()}
    return [n for n in range(N) if n not in taken][:2]


def test_memory_grows_with_features_and_with_pairs_of_latents():
    def planned(n_features, d_sae):
        source = SyntheticActivations(WorldOptions(n_features=n_features))
        source.open()
        items = GroundTruthEvaluation().planned_bytes(source, TopKSAE(64, d_sae, 8))
        return sum(item.n_bytes for item in items.values())

    few, more_features, more_latents = planned(256, 64), planned(4096, 64), planned(256, 4096)
    assert more_features - few > 4096 * 64 * 4  # a number for each two in float32, at least
    assert more_latents - few > 4096 * 4096 * 4
