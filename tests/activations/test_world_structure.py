"""Trees of several levels, drift, correlation and the order of rows of a synthetic world."""

import hashlib
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm

from temporal_sae.activations import SyntheticActivations, World, WorldOptions
from temporal_sae.errors import InvalidOption
from tests.test_config_surface import composed

N = 60
SIZES = {"d_in": 8, "n_features": N, "l0": 5.0, "n_parents": 2, "n_children": 2}
PAIRS = {"n_true_pairs": 4, "n_spurious_pairs": 4}
DRIFT = {"phase_rows": 1000, "n_phases": 4, "active_phases": 2}


def fired(world, n=100_000, seed=0):
    """Return which features fire in rows of all topics and phases, and these."""
    o = world.options
    topics = torch.arange(n) % o.n_topics
    phases = torch.arange(n) // o.n_topics % o.phases
    latents = world.sample(topics, torch.Generator().manual_seed(seed), phases)
    return latents.to_dense(N) > 0, topics, phases


def near(observed, expected, n):
    """Compare the share of n rows with its expectation: five standard deviations."""
    return abs(observed - expected) <= 5 * (expected * (1 - expected) / n) ** 0.5 + 1e-9


def alone(world):
    """Return the features that nothing brings along."""
    others = [world.children.flatten(), world.true_pairs[:, 1], world.spurious_pairs[:, 1]]
    return sorted(set(range(N)) - set(torch.cat(others).tolist()))


def test_the_rows_of_earlier_versions_are_the_rows_of_this_one():
    """Indices alone: sums of floating-point numbers differ between processors."""
    source = SyntheticActivations()
    digest = hashlib.sha256()
    for split in ("train", "held_out"):
        rows, features = source.block(split, 42, 3)
        digest.update(features.indices.numpy().tobytes() + rows.places.numpy().tobytes())
    assert digest.hexdigest()[:16] == "76f7c02b520d3050"
    assert features.values[0, :3].tolist() == pytest.approx([1.1184390, 1.2324064, 0.7625041])
    assert rows.x[0, :3].tolist() == pytest.approx([0.0754761, -0.0379373, -0.0770164], abs=1e-5)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_no_feature_fires_without_its_parent_or_beside_a_sibling(depth):
    world = World(WorldOptions(**SIZES, n_true_pairs=2, n_spurious_pairs=2, depth=depth), 0)
    assert len(world.parents) == 2 * (2**depth - 1)
    rows, _, _ = fired(world)
    level = torch.zeros(N, dtype=torch.long)
    for parent, children in zip(world.parents.tolist(), world.children.tolist(), strict=True):
        assert (world.parent_of[children] == parent).all()
        level[children] = level[parent] + 1
        n = int(rows[:, parent].sum())
        n_children = rows[:, children].sum(1)
        assert n_children.max() == 1
        assert not n_children[~rows[:, parent]].any()
        assert near(float((n_children > 0)[rows[:, parent]].double().mean()), 0.7, n)
    assert int(level.max()) == depth
    assert int((world.parent_of >= 0).sum()) == world.children.numel()
    assert float(rows.sum(1).double().mean()) == pytest.approx(5, rel=0.03)


def test_roots_have_the_highest_rates_and_free_features_the_lowest():
    world = World(WorldOptions(**SIZES, **PAIRS, depth=2, rank_by="role", zipf=1.0), 0)
    assert world.parents[:2].tolist() == [0, 1]
    assert world.rates[:2].min() > world.rates[2:].max()
    free = [f for f in alone(world) if f not in (0, 1, *world.true_pairs[:, 0].tolist())]
    assert world.rates[free[4:]].max() < world.rates[world.true_pairs[:, 0]].min()


@pytest.fixture(scope="module")
def drifting():
    return World(WorldOptions(**SIZES, **PAIRS, **DRIFT, pair_rate=0.8), 0)


@pytest.fixture(scope="module")
def rows(drifting):
    return fired(drifting, 200_000)


def test_features_rest_in_half_of_the_phases_and_keep_their_rate(drifting, rows):
    found, _, phases = rows
    moves = [f for f in alone(drifting) if not drifting.active[f].all()]
    assert len(moves) > 20
    assert set(drifting.active[moves].sum(1).tolist()) == {2}
    brought = torch.cat([drifting.children.flatten(), drifting.spurious_pairs.flatten()])
    assert drifting.active[brought].all()
    assert drifting.active[drifting.true_pairs[:, 1]].all()
    for feature in moves:
        rate = float(drifting.rates[feature])
        assert near(float(found[:, feature].double().mean()), rate, len(found))
        for phase in range(4):
            share = float(found[phases == phase, feature].double().mean())
            expected = 2 * rate if drifting.active[feature, phase] else 0.0
            assert near(share, expected, len(found) / 4)
    assert float(found.sum(1).double().mean()) == pytest.approx(5, rel=0.03)


def test_a_smaller_gain_leaves_the_others_some_of_their_rate():
    world = World(WorldOptions(**SIZES, **PAIRS, **DRIFT, phase_gain=1.5), 0)
    found, _, phases = fired(world, 200_000)
    feature = max(
        (f for f in alone(world) if not world.active[f].all()), key=world.rates.__getitem__
    )
    for phase in range(4):
        share = float(found[phases == phase, feature].double().mean())
        gain = 1.5 if world.active[feature, phase] else 0.5
        assert near(share, gain * float(world.rates[feature]), len(found) / 4)


def test_true_pairs_always_hold_and_spurious_ones_in_their_topic_and_phases(drifting, rows):
    found, topics, phases = rows

    def partner_rate(pair, where):
        first = where & found[:, pair[0]]
        return float(found[first, pair[1]].double().mean()) if first.any() else None

    for pair in drifting.true_pairs.tolist():
        seen = [partner_rate(pair, phases == phase) for phase in range(4)]
        assert all(rate > 0.75 for rate in seen if rate is not None)
        assert [rate is not None for rate in seen] == drifting.active[pair[0]].tolist()
    spurious = zip(drifting.spurious_pairs.tolist(), drifting.spurious_topics, strict=True)
    for number, (pair, topic) in enumerate(spurious):
        holds = drifting.spurious_phases[number]
        assert int(holds.sum()) == 2
        here = holds[phases] & (topics == topic)
        assert partner_rate(pair, here) > 0.7
        assert partner_rate(pair, ~here) < 0.5


def windows(source, n_blocks, width=128):
    """Return the Fano factor of each feature's counts in windows, and its rate."""
    parts = [source.block("train", 0, n)[1].to_dense(N) > 0 for n in range(n_blocks)]
    counts = torch.cat(parts).view(-1, width, N).sum(1).double()
    return counts.var(0) / counts.mean(0), counts.mean(0) / width


def test_independent_rows_have_the_rates_of_documents_and_no_order():
    options = WorldOptions(**SIZES, **PAIRS, phase_rows=4096, n_phases=4, active_phases=2)
    ordered, exchangeable = (
        SyntheticActivations(options, order=order) for order in ("documents", "rows")
    )
    (burst, rates), (fano, same) = windows(ordered, 64), windows(exchangeable, 64)
    moves = ~ordered.truth.active.all(1) & (rates > 0.02)
    assert moves.sum() > 10
    assert float(burst[moves].mean()) > 2
    # Var/mean of a count of n rows is 1 - rate where rows are independent.
    seen = fano[same > 0.005] / (1 - same[same > 0.005])
    assert float(seen.mean()) == pytest.approx(1, abs=0.02)
    assert float((seen - 1).abs().max()) < 0.15
    spread = (burst * rates / (64 * 4096)).sqrt()
    assert ((same - rates).abs() <= 6 * spread + 1e-3).all()
    places = exchangeable.block("train", 0, 2)[0].places
    assert places[:, 1].tolist() == list(range(2 * 4096, 3 * 4096))
    assert not places[:, 2].any()


def test_phases_follow_the_rows_and_come_back_and_held_out_rows_have_all():
    options = WorldOptions(
        **SIZES, **PAIRS, phase_rows=4096, n_phases=4, active_phases=1, phase_gain=4
    )
    source = SyntheticActivations(options)

    def phases_in(split, number):
        """Return the phases that the features of a block rule out no more than others."""
        found = (source.block(split, 0, number)[1].to_dense(N) > 0).any(0)
        single = source.truth.active.sum(1) == 1
        return {
            int(source.truth.active[f].int().argmax()) for f in (found & single).nonzero()[:, 0]
        }

    assert [phases_in("train", n) for n in range(6)] == [{0}, {1}, {2}, {3}, {0}, {1}]
    assert phases_in("held_out", 0) == {0, 1, 2, 3}


@pytest.fixture(scope="module")
def correlated():
    return World(WorldOptions(**SIZES, **PAIRS, correlation=0.6, correlation_rank=2), 0)


def test_correlated_features_keep_their_rates(correlated):
    found, _, _ = fired(correlated, 200_000)
    for feature in alone(correlated):
        rate = float(correlated.rates[feature])
        assert near(float(found[:, feature].double().mean()), rate, len(found))


def test_features_fire_together_as_normal_variables_exceed_their_limits(correlated):
    """Against scipy's bivariate normal distribution, in one topic."""
    firing = correlated._firing
    n = 100_000
    latents = correlated.sample(torch.zeros(n).long(), torch.Generator().manual_seed(1))
    found = latents.to_dense(N) > 0
    often = sorted(alone(correlated), key=lambda f: -float(correlated.rates[f]))[:6]
    seen = []
    for a, b in itertools.combinations(often, 2):
        i, j = (firing._features.tolist().index(f) for f in (a, b))
        r = float(firing._loadings[i] @ firing._loadings[j])
        p, q = (float(norm.sf(float(firing._limits[0, k]))) for k in (i, j))
        limits = [norm.ppf(p), norm.ppf(q)]
        both = float(multivariate_normal.cdf(limits, cov=[[1, r], [r, 1]]))
        assert near(float((found[:, a] & found[:, b]).double().mean()), both, n)
        seen.append(both / (p * q))
    assert max(seen) > 1.5
    assert min(seen) < 0.7


@settings(max_examples=25, deadline=None)
@given(
    depth=st.integers(1, 3),
    n_phases=st.integers(1, 5),
    correlation=st.sampled_from([0.0, 0.3, 0.99]),
    order=st.sampled_from(["documents", "rows"]),
    rank_by=st.sampled_from(["chance", "role"]),
    data=st.data(),
)
def test_blocks_are_the_same_whenever_asked_for(depth, n_phases, correlation, order, rank_by, data):
    active = data.draw(st.integers(1, n_phases))
    options = WorldOptions(
        **SIZES,
        n_true_pairs=2,
        n_spurious_pairs=2,
        depth=depth,
        phase_rows=data.draw(st.sampled_from([0, 1, 1000, 10**9])),
        n_phases=n_phases,
        active_phases=active,
        phase_gain=data.draw(st.floats(1, n_phases / active)),
        correlation=correlation,
        rank_by=rank_by,
    )
    one, other = (SyntheticActivations(options, order=order) for _ in range(2))
    (rows, features), (again, _) = one.block("train", 1, 2), other.block("train", 1, 2)
    assert torch.equal(rows.x, again.x)
    assert rows.x.isfinite().all()
    found = features.to_dense(N) > 0
    child = (one.truth.parent_of >= 0).nonzero()[:, 0]
    assert not (found[:, child] & ~found[:, one.truth.parent_of[child]]).any()


def test_the_twin_has_as_many_active_latents_as_frequent_features_fire():
    cfg = composed("experiment=twin")
    world = {key: value for key, value in cfg.activations.world.items() if key[0] != "_"}
    source = SyntheticActivations(WorldOptions(**world), order=cfg.activations.order)
    n_features, n_blocks = world["n_features"], 5
    counts = torch.zeros(n_features)
    for number in range(n_blocks):
        fires = source.block("train", 0, number)[1].indices
        counts += torch.bincount(fires[fires >= 0], minlength=n_features)
    rates = (counts / (n_blocks * 4096)).sort(descending=True).values
    assert float(rates.sum()) == pytest.approx(world["l0"], rel=0.03)
    assert round(float(rates[: cfg.sae.d_sae].sum())) == cfg.sae.k


@pytest.mark.parametrize(
    "options",
    [
        {"depth": 0},
        {"depth": 33},
        {"rank_by": "name"},
        {"correlation": 1.0},
        {"correlation_rank": 0},
        {"phase_rows": -1},
        {"n_phases": 0},
        {"active_phases": 9},
        {"phase_gain": 2.5},
        {"phase_gain": 0.5},
        {"n_features": 128, "depth": 3},
    ],
)
def test_bad_options(options):
    with pytest.raises(InvalidOption, match=rf"^{next(iter(options))}="):
        WorldOptions(**options)


def test_an_unknown_order_is_refused():
    with pytest.raises(InvalidOption, match=r"^order='text': must be one of documents, rows"):
        SyntheticActivations(order="text")
