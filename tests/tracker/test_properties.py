"""What must hold for any stream of latents."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temporal_sae.errors import InvalidOption
from temporal_sae.tracker import CoActivationTracker, all_weightings
from temporal_sae.tracker.reference import count_pairs

F, K = 12, 4
OPTIONS = st.fixed_dictionaries(
    {
        "window_size": st.integers(1, 9),
        "alpha_source": st.sampled_from(["pair", "union", "const"]),
        "init": st.sampled_from(["first", "zero"]),
        "alpha_scale": st.sampled_from([2.0, 1000.0]),
        "storage": st.sampled_from(["reference", "dense", "sparse"]),
        "totals_from": st.sampled_from([0, 7]),
        "average_from": st.sampled_from([0, 11]),
        "stream": st.sampled_from(["ordered", "permuted"]),
        "permuted_tokens": st.sampled_from([1, 6]),
    }
)


def stream(seed, tokens=40, k=K, n=F):
    """Distinct random latents a token, some slots empty."""
    generator = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randperm(n, generator=generator)[:k] for _ in range(tokens)])
    return torch.where(torch.rand(tokens, k, generator=generator) < 0.8, indices, -1)


def run(indices, pieces=(), **options):
    tracker = CoActivationTracker(F, **options)
    for piece in indices.tensor_split(sorted(pieces)):
        tracker.update(piece)
    return tracker


def matrices(tracker):
    return [tracker.weight_matrix(w) for w in all_weightings()]


@given(st.integers(0, 999), OPTIONS, st.lists(st.integers(0, 40), max_size=8))
@settings(max_examples=40, deadline=None)
def test_batches_do_not_matter_to_the_bit(seed, options, cuts):
    whole, cut = run(stream(seed), **options), run(stream(seed), cuts, **options)
    tokens = 40 - options["permuted_tokens"] * (options["stream"] == "permuted")
    assert whole.windows_closed == cut.windows_closed == tokens // options["window_size"]
    assert all(torch.equal(a, b) for a, b in zip(matrices(whole), matrices(cut), strict=True))


@given(st.integers(0, 999), OPTIONS)
@settings(max_examples=30, deadline=None)
def test_symmetric_zero_diagonal_and_between_c_and_2c(seed, options):
    tracker = run(stream(seed), **options)
    for weights in matrices(tracker):
        assert torch.equal(weights, weights.T)
        assert not weights.diagonal().any()
    rate, weight = tracker.weight_matrix("co_activation"), tracker.weight_matrix()
    assert (weight >= rate).all()
    assert (weight <= 2 * rate + 1e-6).all()


@given(st.integers(0, 999), OPTIONS)
@settings(max_examples=30, deadline=None)
def test_relabelling_latents_permutes_everything(seed, options):
    order = torch.randperm(F, generator=torch.Generator().manual_seed(seed))
    indices = stream(seed)
    relabelled = torch.where(indices >= 0, order[indices.clamp(min=0)], -1)
    plain, permuted = run(indices, **options), run(relabelled, **options)
    for a, b in zip(matrices(plain), matrices(permuted), strict=True):
        assert torch.equal(a, b[order][:, order])


@given(st.integers(0, 999), st.integers(1, 40), OPTIONS)
@settings(max_examples=30, deadline=None)
def test_state_is_exact_in_the_middle_of_a_window(seed, cut, options):
    indices = stream(seed)
    half = run(indices[:cut], **options)
    other = CoActivationTracker(F, **options)
    other.load_state_dict(half.state_dict())
    for tracker in (half, other):
        tracker.update(indices[cut:])
    assert other.tokens_seen == 40
    assert all(torch.equal(a, b) for a, b in zip(matrices(half), matrices(other), strict=True))


@given(st.integers(1, 11), st.integers(1, 30))
def test_sums_of_rates_when_every_token_has_k_active_latents(k, window):
    indices = torch.stack([torch.randperm(F)[:k] for _ in range(window)])
    tracker = run(indices, window_size=window)
    assert float(tracker.weight_sum("co_activation")) == pytest.approx(
        k * (k - 1), rel=1e-5, abs=1e-6
    )
    own = torch.arange(F)
    assert float(tracker.rate(own, own).sum()) == pytest.approx(k, rel=1e-5)


@pytest.mark.parametrize("k", [1, 3, 40])
def test_counts_are_what_the_definition_says(k):
    n = 100
    indices = stream(k, tokens=30, k=k, n=n)
    mask = torch.zeros(30, n)
    for token, row in enumerate(indices.tolist()):
        for latent in row:
            if latent >= 0:
                mask[token, latent] = 1
    assert torch.equal(count_pairs(indices, n), mask.T @ mask)


def test_pieces_of_different_width_share_a_window():
    tracker = CoActivationTracker(5, window_size=2)
    tracker.update(torch.tensor([[0, 1, 2]]))
    tracker.update(torch.tensor([[1]]))
    assert float(tracker.rate(torch.tensor(1), torch.tensor(1))) == 1.0
    assert float(tracker.rate(torch.tensor(0), torch.tensor(2))) == 0.5


def test_pairs_lists_those_with_enough_counts():
    tracker = CoActivationTracker(4, window_size=7)
    tracker.update(torch.tensor([[0, 1]] * 3 + [[2, 3]] * 4))
    assert [t.tolist() for t in tracker.pairs(4)] == [[2], [3]]
    assert [t.tolist() for t in tracker.pairs(3)] == [[0, 2], [1, 3]]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("window_size", 0),
        ("window_size", -5),
        ("window_size", "many"),
        ("window_size", 1.5),
        ("window_size", True),
        ("alpha_cap", 0.0),
        ("alpha_cap", 1.01),
        ("alpha_cap", "x"),
        ("alpha_cap", float("nan")),
        ("alpha_scale", 0),
        ("alpha_source", "pairs"),
        ("alpha_floor", -0.1),
        ("init", "last"),
        ("storage", "disk"),
        ("stream", "sideways"),
        ("prune_below", -1),
        ("sharded", "yes"),
    ],
)
def test_bad_options_are_named(option, value):
    with pytest.raises(InvalidOption, match=option) as caught:
        CoActivationTracker(4, **{option: value})
    assert caught.value.option == option


@pytest.mark.parametrize(("storage", "state"), [("reference", 3 * 100 * 4), ("dense", 45 * 4)])
def test_nbytes_counts_the_state_and_the_open_window(storage, state):
    tracker = CoActivationTracker(10, window_size=100, storage=storage)
    assert tracker.nbytes() == state
    tracker.update(torch.zeros(50, 1, dtype=torch.int64))
    assert tracker.nbytes() == state + 50 * 4


def test_a_sparse_tracker_grows_with_the_pairs_it_saw():
    sizes = []
    for n_latents in (1000, 100_000):
        tracker = CoActivationTracker(n_latents, window_size=100, storage="sparse")
        for seed in range(6):
            tracker.update(stream(seed, tokens=100, k=8, n=1000))
        sizes.append(tracker.nbytes())
    assert sizes[1] < 1.2 * sizes[0] < 6 * 100 * 28 * 20
