"""The control `loss.permuted`: the weights of the tracker on other pairs of latents."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temporal_sae.errors import InvalidOption
from temporal_sae.latents import Latents
from temporal_sae.loss import OrthogonalityLoss
from temporal_sae.loss.pairs import activation_gram
from temporal_sae.loss.relabelling import inverse, relabelling, within_bins
from temporal_sae.tracker import CoActivationTracker, TranscriptTracker

N_LATENTS, K, WINDOW = 24, 4, 40
SEED = 7
PENALTY = {"square": torch.square, "abs": torch.abs}


def tracker_of(kind=CoActivationTracker, windows=3):
    """Latents of very different popularity, some slots empty."""
    torch.manual_seed(0)
    tracker = kind(N_LATENTS, window_size=WINDOW)
    popularity = torch.rand(N_LATENTS) ** 3 + 0.02
    tokens = torch.multinomial(popularity.expand(WINDOW * windows, N_LATENTS), K)
    tracker.update(torch.where(torch.rand(tokens.shape) < 0.2, -1, tokens))
    return tracker


def permuted_weights(tracker, weighting, seed=SEED):
    """The F x F matrix that holds w_ij at (π(i), π(j))."""
    weights = torch.zeros(N_LATENTS, N_LATENTS)
    order = relabelling(N_LATENTS, seed, torch.device("cpu")).tolist()
    upper = tracker.weight_rows(0, N_LATENTS, weighting)
    for i in range(N_LATENTS):
        for j in range(i + 1, N_LATENTS):
            weights[order[i], order[j]] = weights[order[j], order[i]] = upper[i, j]
    return weights.double()


def naive(weights, inner, penalty, reduction, floor):
    """The penalty from F x F matrices, for `ortho_weight=1`."""
    n_pairs = N_LATENTS * (N_LATENTS - 1)
    off_diagonal = 1 - torch.eye(N_LATENTS, dtype=torch.float64)
    if floor:
        weights = weights / weights.sum() + floor / n_pairs * off_diagonal
    total = (weights * PENALTY[penalty](inner)).sum()
    return (
        total
        * {"sum": 0.5, "mean": 1 / N_LATENTS**2, "weighted_mean": 1 / weights.sum()}[reduction]
    )


def decoder():
    torch.manual_seed(1)
    return torch.randn(N_LATENTS, 6, dtype=torch.float64, requires_grad=True)


def batch():
    torch.manual_seed(2)
    indices = torch.stack([torch.randperm(N_LATENTS)[:5] for _ in range(9)])
    indices[0, 2:], indices[3, 4] = -1, -1
    values = torch.rand(9, 5, dtype=torch.float64).add(0.2).requires_grad_()
    return values, Latents(values * (indices >= 0), indices)


def same_as(expected, value, x):
    gradient = torch.autograd.grad(expected, x, retain_graph=True)[0]
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(value, x)[0], gradient, rtol=1e-5, atol=1e-9, check_dtype=False
    )


@pytest.mark.parametrize("floor", [0.0, 1.5])
@pytest.mark.parametrize("reduction", ["weighted_mean", "sum", "mean"])
@pytest.mark.parametrize("penalty", ["square", "abs"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (CoActivationTracker, {"weighting": "instability", "estimator": "exact"}),
        (CoActivationTracker, {"weighting": "instability_only", "estimator": "exact"}),
        (CoActivationTracker, {"weighting": "long_average", "estimator": "exact"}),
        (CoActivationTracker, {"estimator": "sampled", "sample_tokens": WINDOW}),  # the whole
        (TranscriptTracker, {}),
    ],
)
def test_decoder_overlaps_by_a_permuted_matrix(kind, options, penalty, reduction, floor):
    tracker, W_dec = tracker_of(kind), decoder()
    N = W_dec / W_dec.norm(dim=-1, keepdim=True)
    weights = permuted_weights(tracker, options.get("weighting", "co_activation"))
    expected = naive(weights, N @ N.T, penalty, reduction, floor)
    loss = OrthogonalityLoss(
        1.0, penalty, reduction=reduction, floor=floor, seed=SEED, permuted=True, **options
    )
    same_as(expected, loss(W_dec, tracker), W_dec)


def test_all_pairs_in_blocks_and_the_pairs_of_tokens_agree(monkeypatch):
    tracker, W_dec = tracker_of(), decoder()
    loss = OrthogonalityLoss(estimator="exact", seed=SEED, permuted=True)
    by_blocks = loss(W_dec, tracker)
    monkeypatch.setattr("temporal_sae.loss.sums.PairSums._walks_tokens", lambda self, step: True)
    same_as(by_blocks, loss(W_dec, tracker), W_dec)


@pytest.mark.parametrize("floor", [0.0, 1.5])
@pytest.mark.parametrize("penalty", ["square", "abs"])
@pytest.mark.parametrize("weighting", ["instability", "long_average"])
def test_activation_overlaps_by_a_permuted_matrix(weighting, penalty, floor):
    tracker, (values, latents) = tracker_of(), batch()
    weights = permuted_weights(tracker, weighting)
    gram = activation_gram(latents, N_LATENTS)
    loss = OrthogonalityLoss(
        1.0, penalty, "activations", "sum", weighting, floor, seed=SEED, permuted=True
    )
    value = loss(decoder(), tracker, latents)
    same_as(naive(weights, gram, penalty, "sum", floor), value, values)


@pytest.mark.parametrize(
    "options",
    [
        {"estimator": "exact"},
        {"estimator": "exact", "weighting": "long_average", "penalty": "abs"},
        {"estimator": "sampled", "sample_tokens": 5, "floor": 0.5},
    ],
)
def test_gradients_are_those_of_finite_differences_and_of_the_one_pass(options):
    tracker, W_dec = tracker_of(), decoder()
    loss = OrthogonalityLoss(permuted=True, seed=SEED, **options)
    assert torch.autograd.gradcheck(lambda w: loss(w, tracker), W_dec)
    there = torch.randn_like(W_dec).detach()
    into = there.clone()
    value = loss(W_dec, tracker)
    torch.testing.assert_close(loss.add_gradient(W_dec, tracker, into), value.detach())
    torch.testing.assert_close(into - there, torch.autograd.grad(value, W_dec)[0])


@pytest.mark.parametrize(
    "options",
    [
        {"estimator": "exact"},
        {"estimator": "sampled", "sample_tokens": 5, "floor": 1.0},
        {"weighting": "long_average", "penalty": "abs"},
        {"gram": "activations"},
    ],
)
def test_the_identity_changes_nothing(options, monkeypatch):
    monkeypatch.setattr(
        "temporal_sae.loss.relabelling.relabelling", lambda n, seed, device: torch.arange(n)
    )
    tracker, W_dec, latents = tracker_of(), decoder(), batch()[1]
    permuted, plain = (
        OrthogonalityLoss(permuted=permuted, seed=SEED, **options)(W_dec, tracker, latents)
        for permuted in (True, False)
    )
    assert torch.equal(permuted, plain)


def test_weights_move_as_a_whole():
    """Their sum, their sizes and how they hang together stay; where they lie does not."""
    tracker = tracker_of()
    plain = tracker.weight_matrix("instability").double()
    moved = permuted_weights(tracker, "instability")
    torch.testing.assert_close(moved.sum(), plain.sum())
    torch.testing.assert_close(moved.flatten().sort().values, plain.flatten().sort().values)
    torch.testing.assert_close(moved.sum(0).sort().values, plain.sum(0).sort().values)
    torch.testing.assert_close(torch.linalg.eigvalsh(moved), torch.linalg.eigvalsh(plain))
    assert float((moved - plain).abs().max()) > 0.01


def test_a_permutation_is_a_function_of_the_seed_alone():
    W_dec, tracker = decoder(), tracker_of()

    def value(seed):
        loss = OrthogonalityLoss(estimator="exact", seed=seed, permuted=True)
        return float(loss(W_dec.detach(), tracker))

    before = value(1)
    assert before != value(2)
    tracker.update(torch.tensor([[0, 1]]))  # the window stays open
    assert value(1) == before


def test_relabelling_is_a_permutation_and_inverse_undoes_it():
    order = relabelling(100, 3, torch.device("cpu"))
    assert order.sort().values.tolist() == list(range(100))
    assert order.tolist() != list(range(100))
    assert order[inverse(order)].tolist() == list(range(100))


@given(st.integers(0, 999), st.integers(1, 60), st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_within_bins_every_latent_takes_the_name_of_one_of_its_own(seed, n, n_bins):
    bins = torch.randint(n_bins, (n,), generator=torch.Generator().manual_seed(seed))
    order = within_bins(bins, seed)
    assert order.sort().values.tolist() == list(range(n))
    assert torch.equal(bins[order], bins)


def test_within_one_bin_all_permutations_are_as_likely():
    found = Counter(tuple(within_bins(torch.zeros(3), seed).tolist()) for seed in range(600))
    assert len(found) == 6
    assert max(found.values()) < 2 * min(found.values())


RATES = {"totals_from": 75, "window_size": WINDOW}  # two windows of warm-up


def rows_of_a_stream(tokens=200):
    torch.manual_seed(3)
    popularity = 2.0 ** -(torch.arange(N_LATENTS) % 4)
    popularity[20:] = 0  # silent ones
    return torch.multinomial(popularity.expand(tokens, N_LATENTS), K)


def test_bins_are_powers_of_two_of_the_rates_before_the_totals():
    rows, tracker = rows_of_a_stream(), CoActivationTracker(N_LATENTS, **RATES)
    tracker.update(rows)
    counts = torch.bincount(rows[: 2 * WINDOW].flatten(), minlength=N_LATENTS)
    assert torch.equal(tracker.warmup.n, counts)
    logs = (counts / (2 * WINDOW)).log2().floor()
    alike = logs[:, None] == logs
    bins = tracker.warmup.bins()
    assert torch.equal(bins[:, None] == bins, alike)
    assert len(bins[20:].unique()) == 1
    quarter = CoActivationTracker(3, 4, totals_from=1)
    quarter.update(torch.tensor([[0, 1], [0, -1], [0, -1], [0, -1]]))  # rates 1, 1/4 and 0
    assert quarter.warmup.bins().tolist()[:2] == [0, -2]


@pytest.mark.parametrize("weighting", ["co_activation", "rates", "excess", "stable"])
@pytest.mark.parametrize("gram", ["decoder", "activations"])
def test_rates_are_kept_and_pairs_are_not(weighting, gram):
    tracker, W_dec = CoActivationTracker(N_LATENTS, **RATES), decoder()
    tracker.update(rows_of_a_stream())
    order = within_bins(tracker.warmup.bins(), SEED)
    assert order.tolist() != list(range(N_LATENTS))
    weights = torch.zeros(N_LATENTS, N_LATENTS, dtype=torch.float64)
    weights[order[:, None], order] = tracker.weight_matrix(weighting).double()
    options = {"weighting": weighting, "permuted": "rates", "gram": gram, "reduction": "sum"}
    loss = OrthogonalityLoss(1.0, seed=SEED, **options)
    if gram == "decoder":
        N = W_dec / W_dec.norm(dim=-1, keepdim=True)
        same_as(naive(weights, N @ N.T, "square", "sum", 0), loss(W_dec, tracker), W_dec)
    else:
        values, latents = batch()
        value = loss(W_dec, tracker, latents)
        inner = activation_gram(latents, N_LATENTS)
        same_as(naive(weights, inner, "square", "sum", 0), value, values)


def test_no_penalty_before_warm_up_is_over_and_the_same_control_after_a_break():
    rows, W_dec = rows_of_a_stream(), decoder().detach()
    loss = OrthogonalityLoss(1.0, "square", seed=SEED, permuted="rates", estimator="exact")
    whole, first = (CoActivationTracker(N_LATENTS, **RATES) for _ in range(2))
    assert loss.begins_at(whole) == 2 * WINDOW
    for token in range(0, 200, 10):
        whole.update(rows[token : token + 10])
        assert bool(loss(W_dec, whole) > 0) == (token + 10 >= 2 * WINDOW)
    for cut in (35, 130):
        first = CoActivationTracker(N_LATENTS, **RATES)
        first.update(rows[:cut])
        second = CoActivationTracker(N_LATENTS, **RATES)
        second.load_state_dict(first.state_dict())
        second.update(rows[cut:])
        again = OrthogonalityLoss(1.0, "square", seed=SEED, permuted="rates", estimator="exact")
        for penalty in (loss, again):
            assert torch.equal(penalty(W_dec, second), loss(W_dec, whole))
    other = OrthogonalityLoss(1.0, "square", seed=SEED + 1, permuted="rates", estimator="exact")
    assert not torch.equal(other(W_dec, whole), loss(W_dec, whole))


@pytest.mark.parametrize("totals_from", [None, 0])
def test_a_control_by_rates_takes_a_warm_up(totals_from):
    tracker = CoActivationTracker(N_LATENTS, totals_from=totals_from)
    said = "permuted='rates': must be used with tracker.totals_from=TOKENS above 0"
    for refused in (tracker, TranscriptTracker(N_LATENTS)):
        with pytest.raises(InvalidOption, match=said):
            OrthogonalityLoss(permuted="rates").check_tracker(refused)


def test_a_state_without_counts_of_the_warm_up_is_told():
    without = CoActivationTracker(N_LATENTS, WINDOW)
    without.update(rows_of_a_stream())
    tracker = CoActivationTracker(N_LATENTS, **RATES)
    tracker.load_state_dict(without.state_dict())
    assert "warmup" not in tracker.state_dict()
    with pytest.raises(ValueError, match="goes on from a state without counts of the warm-up"):
        OrthogonalityLoss(permuted="rates")(decoder(), tracker)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"permuted": True, "weighting": "uniform"}, "permuted=True: must be false with"),
        ({"permuted": "rates", "weighting": "uniform"}, "permuted='rates': must be false with"),
        ({"permuted": "no"}, "permuted='no': must be false, true or rates"),
        ({"permuted": 1}, "permuted=1: must be false, true or rates"),
    ],
)
def test_bad_options(options, said):
    with pytest.raises(InvalidOption, match=said):
        OrthogonalityLoss(**options)
