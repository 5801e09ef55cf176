"""Every storage holds what the reference holds, and states move between them."""

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temporal_sae.errors import InvalidOption
from temporal_sae.machine import Free
from temporal_sae.tracker import CoActivationTracker, all_weightings
from temporal_sae.tracker.choice import choose_storage

FAST = ["dense", "sparse"]
OPTIONS = st.fixed_dictionaries(
    {
        "window_size": st.integers(1, 30),
        "alpha_source": st.sampled_from(["pair", "union", "const"]),
        "alpha_floor": st.sampled_from([0.0, 0.3]),
        "alpha_cap": st.sampled_from([0.1, 1.0]),
        "init": st.sampled_from(["first", "zero"]),
        "alpha_scale": st.sampled_from([2.0, 1000.0]),
        "totals_from": st.sampled_from([0, 40]),
        "average_from": st.sampled_from([0, 25, 60]),
    }
)


def zipf_stream(seed, n, k, tokens=100):
    """Distinct latents a token, popular ones more often, some slots empty."""
    generator = torch.Generator().manual_seed(seed)
    popularity = 1 / torch.arange(1, n + 1).float()
    indices = torch.multinomial(popularity.expand(tokens, n), k, generator=generator)
    return torch.where(torch.rand(tokens, k, generator=generator) < 0.8, indices, -1)


def assert_same(tracker, reference):
    """All that can be asked: counts, averages and weights to the bit, sums to 1e-6."""
    n = reference.n_latents
    i, j = (t.flatten() for t in torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij"))
    for read in ("rate", "before", "average"):
        assert torch.equal(getattr(tracker, read)(i, j), getattr(reference, read)(i, j)), read
    for weighting, found in all_weightings().items():
        expected = reference.weight_matrix(weighting)
        assert torch.equal(tracker.weight_matrix(weighting), expected)
        assert torch.equal(tracker.weight(i, j, weighting).view(n, n), expected)
        torch.testing.assert_close(
            tracker.weight_sum(weighting), reference.weight_sum(weighting), rtol=1e-6, atol=1e-9
        )
        if reference.windows_closed and found.relative:
            tokens = torch.arange(len(reference.last_window))[::2]
            ours = tracker.relative_weights(tokens, weighting)
            assert torch.equal(ours, reference.relative_weights(tokens, weighting))
    if reference.windows_closed:
        assert torch.equal(tracker.last_window, reference.last_window)
        assert torch.equal(tracker.count_histogram(), reference.count_histogram())
        for least in (1, 3):
            assert torch.equal(
                torch.stack(tracker.pairs(least)), torch.stack(reference.pairs(least))
            )


@pytest.mark.parametrize("storage", FAST)
@given(seed=st.integers(0, 999), n=st.integers(1, 60), options=OPTIONS, data=st.data())
@settings(max_examples=40, deadline=None)
def test_equal_to_the_reference(storage, seed, n, options, data):
    indices = zipf_stream(seed, n, data.draw(st.integers(1, min(n, 8))))
    ours = CoActivationTracker(n, storage=storage, **options)
    reference = CoActivationTracker(n, storage="reference", **options)
    for piece in indices.split(37):
        ours.update(piece)
        reference.update(piece)
    assert_same(ours, reference)


@given(
    st.sampled_from(["dense", "sparse", "reference"]),
    st.sampled_from(["dense", "sparse", "reference"]),
    st.integers(0, 999),
    st.integers(0, 100),
    OPTIONS,
)
@settings(max_examples=60, deadline=None)
def test_states_move_between_storages_at_any_token(source, target, seed, cut, options):
    indices = zipf_stream(seed, 40, 6)
    whole = CoActivationTracker(40, storage="reference", **options)
    first = CoActivationTracker(40, storage=source, **options)
    whole.update(indices)
    first.update(indices[:cut])
    second = CoActivationTracker(40, storage=target, **options)
    second.load_state_dict(first.state_dict())
    second.update(indices[cut:])
    assert second.tokens_seen == 100
    assert_same(second, whole)


def test_a_dense_state_is_compact_and_flat():
    tracker = CoActivationTracker(300, window_size=50, storage="dense")
    tracker.update(zipf_stream(0, 300, 6, tokens=130))
    state = tracker.state_dict()
    tensors = [state["averages"]["averages"], state["open"], state["last_window"]]
    assert sum(t.nbytes for t in tensors) == 300 * 299 // 2 * 4 + 30 * 6 * 4 + 50 * 6 * 4


def test_a_state_of_other_latents_is_refused():
    small, large = (CoActivationTracker(n, window_size=5, storage="dense") for n in (10, 20))
    small.update(zipf_stream(0, 10, 3, tokens=9))
    large.update(zipf_stream(0, 20, 3, tokens=7))
    with pytest.raises(ValueError, match="state: is of 10 latents, must be of 20"):
        large.load_state_dict(small.state_dict())
    assert (large.windows_closed, large.tokens_seen) == (1, 7)


def test_a_fresh_state_empties_a_tracker_that_was_used():
    fresh, used = (CoActivationTracker(10, window_size=5, storage="dense") for _ in range(2))
    used.update(zipf_stream(0, 10, 3, tokens=19))
    state = CoActivationTracker(10, window_size=5).state_dict()
    used.load_state_dict(state)
    for tracker in (used, fresh):
        tracker.update(zipf_stream(1, 10, 3))
    assert torch.equal(used.weight_matrix("long_average"), fresh.weight_matrix("long_average"))


def test_latents_far_more_than_a_window_has_slots():
    n, options = 700, {"window_size": 20, "totals_from": 0}
    trackers = [CoActivationTracker(n, storage=s, **options) for s in (*FAST, "reference")]
    for tracker in trackers:
        tracker.update(zipf_stream(3, n, 5))
    assert_same(trackers[0], trackers[2])
    assert_same(trackers[1], trackers[2])


@pytest.mark.parametrize("bound", [1.5e-5, 5e-5, 2e-4])  # one count in a window makes 1e-5
def test_pruning_costs_no_more_than_it_says(bound, monkeypatch):
    monkeypatch.setattr("temporal_sae.tracker.sparse.PRUNE_FROM", 200)
    n, window = 400, 100
    exact = CoActivationTracker(n, window_size=window, storage="dense", init="zero")
    pruned = CoActivationTracker(
        n, window_size=window, storage="sparse", init="zero", prune_below=bound
    )
    for seed in range(40):
        indices = zipf_stream(seed, n, 10, tokens=window)
        exact.update(indices)
        pruned.update(indices)
    i, j = torch.triu_indices(n, n, 1)
    missing = exact.before(i, j) - pruned.before(i, j)
    assert float(missing.min()) >= 0
    assert 0 < float(missing.max()) <= pruned.error_bound
    rate = exact.rate(i, j)
    seen = rate > 0
    s_off = (
        exact.weight(i, j, "instability_only") - pruned.weight(i, j, "instability_only")
    ).abs()[seen] / rate[seen]
    assert float((s_off - pruned.error_bound / rate[seen]).max()) <= 1e-6
    assert pruned.nbytes() < 0.8 * unpruned_bytes(n, window)


def unpruned_bytes(n, window):
    tracker = CoActivationTracker(n, window_size=window, storage="sparse", init="zero")
    for seed in range(40):
        tracker.update(zipf_stream(seed, n, 10, tokens=window))
    assert tracker.error_bound == 0
    return tracker.nbytes()


def test_a_pruned_state_goes_on_as_if_it_had_not_been_saved(monkeypatch):
    monkeypatch.setattr("temporal_sae.tracker.sparse.PRUNE_FROM", 200)
    options = {"window_size": 50, "storage": "sparse", "init": "zero", "prune_below": 5e-5}
    whole, half, other = (CoActivationTracker(300, **options) for _ in range(3))
    indices = zipf_stream(0, 300, 8, tokens=2000)
    whole.update(indices)
    half.update(indices[:975])
    other.load_state_dict(half.state_dict())
    other.update(indices[975:])
    i, j = torch.triu_indices(300, 300, 1)
    assert torch.equal(other.average(i, j), whole.average(i, j))
    assert other.error_bound == whole.error_bound > 0


GIB = 2**30


@pytest.mark.parametrize(
    ("n_latents", "k", "free", "expected", "why"),
    [
        (4608, 160, 24 * GIB, "dense", "fits well"),
        (65536, 64, 20 * GIB, "sparse", "dense would take too much"),
        (65536, 64, 80 * GIB, "dense", "fits well"),
        (65536, 640, 16 * GIB, "dense", "most pairs will occur"),
        (2**20, 32, 80 * GIB, "sparse", "dense would take too much"),
    ],
)
def test_auto_chooses_by_size_and_says_why(monkeypatch, n_latents, k, free, expected, why):
    monkeypatch.setattr("temporal_sae.tracker.choice.free_memory", lambda device: Free(free))
    storage, reason = choose_storage("auto", n_latents, k, 1000, torch.device("cpu"))
    assert storage == expected
    assert reason.startswith(why)


def test_auto_logs_its_choice_once_k_is_known(caplog):
    tracker = CoActivationTracker(50, window_size=10)
    with caplog.at_level(logging.INFO):
        tracker.update(zipf_stream(0, 50, 4))
    assert tracker.storage == "dense"
    assert "tracker.storage: dense (fits well; dense 0.00 GiB" in caplog.text


@pytest.mark.parametrize("storage", FAST)
def test_auto_continues_with_the_storage_of_a_saved_state(storage):
    saved = CoActivationTracker(50, window_size=10, storage=storage)
    saved.update(zipf_stream(0, 50, 4))
    tracker = CoActivationTracker(50, window_size=10)
    tracker.load_state_dict(saved.state_dict())
    assert tracker.storage == storage


def test_pruning_needs_a_storage_that_can_prune():
    with pytest.raises(InvalidOption, match=r"prune_below=0\.1: must be 0 with storage=dense"):
        CoActivationTracker(4, storage="dense", prune_below=0.1)


@pytest.mark.parametrize(
    ("indices", "words"),
    [
        (torch.zeros(3, 2), "indices: has dtype torch.float32, must be int16, int32 or int64"),
        (torch.zeros(3, 2, dtype=torch.bool), "indices: has dtype torch.bool"),
        (torch.zeros(3, dtype=torch.int64), r"indices: has shape \(3,\), must be \[tokens, k\]"),
        (torch.tensor([[0, 4]]), "indices: found 4, must be from -1"),
        (torch.tensor([[0, -2]]), "indices: found -2"),
        (torch.tensor([[0, 1], [3, 3]]), "indices: latent 3 twice in token 1"),
    ],
)
def test_wrong_indices_are_refused_at_once(indices, words):
    tracker = CoActivationTracker(4)
    with pytest.raises(ValueError, match=words):
        tracker.update(indices)
    assert tracker.tokens_seen == 0


@pytest.mark.parametrize(
    ("i", "j", "words"),
    [
        (torch.tensor(0.0), torch.tensor(1), "i: has dtype torch.float32"),
        (torch.tensor([0]), torch.tensor([0, 1]), r"j: has shape \(2,\), must be that of i"),
        (torch.tensor(0), torch.tensor(4), "j: found 4, must be from 0 to 3"),
        (torch.tensor(-1), torch.tensor(2), "i: found -1"),
        (torch.tensor(1), torch.tensor(1, device="meta"), "j: is on meta, must be on the device"),
    ],
)
def test_wrong_pairs_are_refused(i, j, words):
    with pytest.raises(ValueError, match=words):
        CoActivationTracker(4).rate(i, j)
