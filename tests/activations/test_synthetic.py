"""A synthetic world: its rates, its structure, and that a row is always the same row."""

import itertools

import pytest
import torch

from temporal_sae.activations import SyntheticActivations, World, WorldOptions
from temporal_sae.errors import InvalidOption
from temporal_sae.sae import TopKSAE

SIZES = {"d_in": 16, "n_features": 60, "l0": 5.0, "n_parents": 3, "n_children": 2}


def fired(world, topics, seed=0):
    """[rows, n_features], which fire."""
    latents = world.sample(topics, torch.Generator().manual_seed(seed))
    return latents.to_dense(world.options.n_features) > 0


@pytest.fixture(scope="module")
def world():
    return World(WorldOptions(**SIZES, n_true_pairs=4, n_spurious_pairs=4), seed=0)


@pytest.fixture(scope="module")
def topics():
    return torch.arange(200_000) % 8


@pytest.fixture(scope="module")
def rows(world, topics):
    return fired(world, topics)


def within(observed, expected, n):
    """Return the bounds of a count of n draws: five standard deviations."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    spread = (expected * (1 - expected) / n).sqrt()
    return ((observed - expected).abs() <= 5 * spread + 1e-9).all()


def by_others(world):
    """Features that others bring along."""
    return torch.cat([world.children.flatten(), world.true_pairs[:, 1], world.spurious_pairs[:, 1]])


def test_features_fire_at_their_rates_and_l0_is_their_sum(world, rows):
    alone = torch.ones(60, dtype=torch.bool)
    alone[by_others(world)] = False
    assert within(rows.double().mean(0)[alone], world.rates[alone], len(rows))
    assert float(rows.sum(1).double().mean()) == pytest.approx(5.0, rel=0.03)


def test_rates_fall_as_a_power_of_the_rank():
    sizes = {**SIZES, "n_parents": 0, "n_true_pairs": 0, "n_spurious_pairs": 0, "l0": 1.0}
    rates = World(WorldOptions(**sizes, zipf=1.2), 0).rates
    ranks = torch.arange(1, 61, dtype=torch.float64)
    assert torch.allclose(rates / rates[0], ranks**-1.2)
    assert torch.allclose(
        World(WorldOptions(**sizes, zipf=0), 0).rates, torch.tensor(1 / 60).double()
    )


def test_a_child_fires_only_with_its_parent_and_without_its_siblings(world, rows):
    for parent, children in zip(world.parents.tolist(), world.children.tolist(), strict=True):
        n_children = rows[:, children].sum(1)
        assert n_children.max() == 1
        assert not (n_children > 0)[~rows[:, parent]].any()
        n = int(rows[:, parent].sum())
        assert within((n_children > 0)[rows[:, parent]].double().mean(), 0.7, n)


def partner_rate(rows, first, second):
    return float(rows[rows[:, first], second].double().mean())


def test_the_first_of_a_true_pair_brings_the_second_in_every_topic(world, rows, topics):
    for first, second in world.true_pairs.tolist():
        own = world.rates[second]
        for topic in range(8):
            n = int(rows[topics == topic, first].sum())
            rate = partner_rate(rows[topics == topic], first, second)
            assert rate > 0.5 - 5 * (0.25 / n) ** 0.5
            assert rate < 0.5 + 0.5 * min(1.0, 4 * own) + 5 * (0.25 / n) ** 0.5


def test_the_first_of_a_spurious_pair_does_so_in_one_topic_alone(world, rows, topics):
    for (first, second), own_topic in zip(
        world.spurious_pairs.tolist(), world.spurious_topics.tolist(), strict=True
    ):
        here = partner_rate(rows[topics == own_topic], first, second)
        elsewhere = partner_rate(rows[topics != own_topic], first, second)
        assert here > 0.4
        assert elsewhere < min(1.0, 4 * float(world.rates[second])) + 0.05


def test_a_topic_raises_its_features_and_leaves_their_rates_over_all(world, rows, topics):
    alone = set(range(60)) - set(by_others(world).tolist())
    topical = [f for f in alone if world.topics[f] >= 0 and world.rates[f] > 0.02]
    assert topical
    for feature in topical:
        own = topics == world.topics[feature]
        n = int(own.sum())
        here = rows[own, feature].double().mean()
        assert within(here, 4 * world.rates[feature], n)
        assert within(
            rows[~own, feature].double().mean(), 4 / 7 * world.rates[feature], len(rows) - n
        )


def test_rows_are_sums_of_the_directions_of_what_fires():
    source = SyntheticActivations(WorldOptions(**SIZES, n_true_pairs=2, n_spurious_pairs=2))
    rows, features = source.block("train", 0, 3)
    world = source.truth
    assert torch.allclose(world.directions.norm(dim=-1), torch.ones(60))
    assert torch.allclose(rows.x, features.to_dense(60) @ world.directions, atol=1e-5)
    assert (features.values[features.indices >= 0] >= 0.05).all()


def test_noise_is_added_with_its_standard_deviation():
    options = {**SIZES, "n_true_pairs": 2, "n_spurious_pairs": 2}
    (still, _), (noisy, _) = (
        SyntheticActivations(WorldOptions(**options, noise=s)).block("train", 0, 0)
        for s in (0, 0.3)
    )
    assert float((noisy.x - still.x).std()) == pytest.approx(0.3, rel=0.02)


def test_documents_are_stretches_of_their_mean_length_on_one_topic():
    source = SyntheticActivations(WorldOptions(document_rows=64))
    rows = [source.block("train", 0, n)[0] for n in range(8)]
    documents = torch.cat([r.places[:, 1] for r in rows])
    positions = torch.cat([r.places[:, 2] for r in rows])
    same = documents[1:] == documents[:-1]
    assert torch.equal(positions[1:][same], positions[:-1][same] + 1)
    assert (positions[1:][~same] == 0).all()
    assert len(documents) / len(documents.unique()) == pytest.approx(64, rel=0.15)
    assert (documents.diff() >= 0).all()


@pytest.mark.parametrize("n", [0, 1, 9, 60])
@pytest.mark.parametrize("ordered", [False, True])
def test_continues_to_the_bit(n, ordered):
    stream, other = (SyntheticActivations().stream(1024, 0, ordered) for _ in range(2))
    for _ in range(n):
        next(stream)
    state = stream.state_dict()
    state["buffer"]["rows"] = {k: v.clone() for k, v in state["buffer"]["rows"].items()}
    other.load_state_dict(state)
    for _ in range(10):
        a, b = next(stream), next(other)
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.rows.places, b.rows.places)
        assert [r.x.tolist() for r in a.ordered] == [r.x.tolist() for r in b.ordered]


def test_the_worlds_seed_fixes_features_and_the_runs_seed_rows():
    one, same, other = SyntheticActivations(), SyntheticActivations(), SyntheticActivations(seed=1)
    x, again, next_run = (s.reader(n).read().x for s, n in ((one, 0), (same, 0), (same, 1)))
    assert torch.equal(x, again)
    assert not torch.equal(x, next_run)
    assert torch.equal(one.truth.directions, same.truth.directions)
    assert not torch.equal(one.truth.directions, (other.open(), other.truth)[1].directions)


def test_held_out_rows_are_others_come_with_their_features_and_do_not_depend_on_the_batch():
    source = SyntheticActivations()
    parts = list(source.held_out_with_truth(70, 7))
    x = torch.cat([rows.x for rows, _ in parts])
    assert x.shape == (70 * 128, 64)
    assert all(rows.sequences.shape[1] == 128 and rows.sequences.all() for rows, _ in parts)
    whole = torch.cat([rows.x for rows in source.held_out(70, 1000)])
    assert torch.equal(x, whole)
    rebuilt = torch.cat([f.to_dense(128) for _, f in parts]) @ source.truth.directions
    assert torch.allclose(x, rebuilt, atol=1e-4)
    trained = source.reader(0).read().x
    assert not (x[:, None, 0] == trained[None, :200, 0]).logical_and(x[:, None, 0] != 0).any()


def test_stream_order_is_that_of_the_documents():
    stream = SyntheticActivations().stream(1024, 0, ordered=True)
    places = torch.cat([r.places for b in itertools.islice(stream, 8) for r in b.ordered])
    assert (places[:, 1].diff() >= 0).all()


@pytest.mark.parametrize("buffer_tokens", [512, 20_000])
def test_a_buffer_of_one_batch_keeps_the_order_and_a_long_one_mixes_all(buffer_tokens):
    stream = SyntheticActivations(buffer_tokens=buffer_tokens).stream(512, 0)
    if buffer_tokens == 512:
        batches = [next(stream) for _ in range(3)]
        state = stream.state_dict()
        other = SyntheticActivations(buffer_tokens=512).stream(512, 0)
        other.load_state_dict(state)
        assert torch.equal(next(other).x, next(stream).x)
        expected = SyntheticActivations().reader(0).read().x[: 3 * 512] / stream.scale
        assert torch.allclose(torch.cat([b.x for b in batches]), expected)
    else:
        documents = next(stream).rows.places[:, 1]
        of_block = torch.bincount(documents // 4096, minlength=5)
        assert (of_block > 60).all()  # of 512 rows from five blocks, 102 each


@pytest.mark.parametrize(
    "options",
    [
        {"n_features": 20},
        {"l0": 60},
        {"l0": 0},
        {"zipf": -1},
        {"child_rate": 1.5},
        {"topic_gain": 8},
        {"topic_gain": 50, "n_topics": 1},
        {"zipf": 160},
        {"zipf": 400},
        {"zipf": 12, "n_features": 200},
        {"noise": 1e39},
        {"value_std": 1e39},
        {"n_topics": 0},
        {"d_in": 0},
        {"document_rows": 0},
        {"n_parents": -1},
    ],
)
def test_bad_options(options):
    with pytest.raises(InvalidOption, match=rf"^{next(iter(options))}="):
        World(WorldOptions(**options), seed=0)


@pytest.mark.parametrize(
    ("option", "options"),
    [
        ("n_topics", {"n_topics": 10**11}),
        ("n_features", {"n_features": 10**11}),
        ("n_features", {"n_features": 10**11, "n_topics": 10**10}),
        ("d_in", {"d_in": 10**11}),
    ],
)
def test_a_world_beyond_memory_is_refused_by_its_largest_size(option, options):
    told = rf"^world\.{option}={options[option]}: must be smaller: the world takes [\d,]+ MiB"
    with pytest.raises(InvalidOption, match=told):
        SyntheticActivations(WorldOptions(**options)).open()


def test_rows_of_the_widest_spread_and_the_steepest_rates_are_finite():
    source = SyntheticActivations(WorldOptions(noise=1e6, value_std=1e6, zipf=11))
    rows, features = source.block("train", 0, 0)
    assert rows.x.square().sum(1).isfinite().all()
    assert float((features.indices >= 0).sum(1).double().mean()) == pytest.approx(8, rel=0.03)


def test_without_topics_there_is_no_gain():
    source = SyntheticActivations(WorldOptions(n_topics=1, topic_gain=1))
    assert source.block("train", 0, 0)[0].x.isfinite().all()


def test_no_sae_begins_with_the_true_directions():
    """Both draw from torch's generator, and a person gives both the same seed."""
    source = SyntheticActivations(seed=0)
    source.open()
    torch.manual_seed(0)
    rows = TopKSAE(source.d_in, 64, k=4).W_dec
    cosines = torch.nn.functional.normalize(rows, dim=-1) @ source.truth.directions.T
    assert cosines.abs().max() < 0.99
