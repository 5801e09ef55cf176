"""Every version of an operation against `plain`, on random and on adversarial windows."""

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from temporal_sae.kernels import plain
from temporal_sae.kernels.alpha import CONST, PAIR, UNION, AlphaStep

VERSIONS = ["cpu", "cuda"]
STEPS = [AlphaStep(PAIR, 0.1, 3.0), AlphaStep(UNION, 0.3, 7.0), AlphaStep(CONST, 0.25, 1.0)]


# `cuda` counts all pairs in tiles or, with α from the pair alone, lists those of the window.
CLOSINGS = {
    **{f"cpu-{step.source}": ("cpu", step, {}) for step in STEPS},
    **{f"cuda-{step.source}": ("cuda", step, {"COST_OF_LISTING": 2**40}) for step in STEPS},
    "cuda-listing": ("cuda", STEPS[0], {"COST_OF_LISTING": 0}),
}


def random_rows(seed, tokens, n, k, full=0.8):
    """Latents of some tokens: distinct, popular ones more often, some slots empty."""
    generator = torch.Generator().manual_seed(seed)
    popularity = 1 / torch.arange(1, n + 1).float()
    indices = torch.multinomial(popularity.expand(tokens, n), k, generator=generator)
    empty = torch.rand(tokens, k, generator=generator) >= full
    return plain.sorted_rows(indices.masked_fill(empty, -1), n)


def everywhere(tokens, n, k):
    """Latent n - 1 in every token, the others in turn."""
    others = (torch.arange(tokens)[:, None] + torch.arange(k - 1)) % (n - 1)
    return plain.sorted_rows(torch.cat([others, torch.full((tokens, 1), n - 1)], 1), n)


WINDOWS = {
    "random": lambda: (random_rows(0, 50, 37, 6), 37),
    "wide": lambda: (random_rows(1, 33, 70, 40), 70),
    "odd sizes": lambda: (random_rows(2, 61, 131, 7), 131),
    "one slot": lambda: (random_rows(3, 20, 9, 1), 9),
    "one latent": lambda: (torch.zeros(10, 1, dtype=torch.int32), 1),
    "empty": lambda: (torch.full((8, 3), -1, dtype=torch.int32), 5),
    "one token": lambda: (random_rows(4, 1, 12, 5), 12),
    "mostly empty": lambda: (random_rows(5, 64, 300, 5, full=0.2), 300),
    "one everywhere": lambda: (everywhere(65, 40, 4), 40),
    "same token repeated": lambda: (random_rows(6, 1, 30, 6).expand(130, 6).contiguous(), 30),
    "more than a block": lambda: (random_rows(7, 200, 520, 20), 520),
}


def version_of(name):
    if name == "cuda":
        pytest.importorskip("triton")
        if torch.cuda.is_available():
            pytest.skip("compiled kernels take no tensors of the CPU; tests/gpu tests them")
    return importlib.import_module(f"temporal_sae.kernels.{name}")


@pytest.fixture(params=VERSIONS)
def kernels(request):
    return version_of(request.param)


@pytest.fixture(params=CLOSINGS)
def closing(request, monkeypatch):
    """A version of `close_dense`, and a step of α."""
    name, step, settings_of_version = CLOSINGS[request.param]
    version = version_of(name)
    for setting, value in settings_of_version.items():
        monkeypatch.setattr(version, setting, value)
    return version, step


@pytest.fixture(params=WINDOWS)
def window(request):
    return WINDOWS[request.param]()


def later_pairs(n):
    return torch.triu_indices(n, n, 1)


def without_padding(pairs):
    """i, j and n of listed pairs; what pads their end must be zeros."""
    listed = torch.stack(pairs)
    size = int((listed[2] > 0).sum())
    assert not listed[:, size:].any()
    return listed[:, :size]


def test_sorted_rows(kernels):
    indices = torch.tensor([[5, -1, 2], [-1, -1, -1], [0, 1, 4]])
    expected = torch.tensor([[2, 5, -1], [-1, -1, -1], [0, 1, 4]], dtype=torch.int32)
    for kind in (torch.int64, torch.int32, torch.int16):
        assert torch.equal(kernels.sorted_rows(indices.to(kind), 6), expected)


@pytest.mark.parametrize(
    ("row", "words"),
    [([0, 6], "found 6"), ([-2, 1], "found -2"), ([3, 3], "latent 3 twice in token 1")],
)
@pytest.mark.parametrize("version", ["plain", "cpu"])
def test_wrong_indices_are_named(version, row, words):
    indices = torch.tensor([[0, 1], row])
    with pytest.raises(ValueError, match=f"indices: .*{words}"):
        version_of(version).sorted_rows(indices, 6)


def test_wrong_indices_are_dropped_where_telling_would_wait():
    wrong = [[0, 6, 2, 2], [-2, 1, 2**40, 0], [3, 3, 3, 3], [5, -1, 5, 4]]
    rows = version_of("cuda").sorted_rows(torch.tensor(wrong), 6)
    expected = [[0, 2, -1, -1], [0, 1, -1, -1], [3, -1, -1, -1], [4, 5, -1, -1]]
    assert torch.equal(rows, torch.tensor(expected, dtype=torch.int32))


def test_counts_of_listed_pairs(kernels, window):
    rows, n = window
    i = torch.randint(0, n, (4, 30))
    j = torch.randint(0, n, (4, 30))
    expected = plain.pair_counts(plain.index_window(rows, n), i, j)
    assert torch.equal(kernels.pair_counts(kernels.index_window(rows, n), i, j), expected)


def test_counts_within_tokens(kernels, window):
    rows, n = window
    tokens = torch.randint(0, rows.shape[0], (5,))
    expected = plain.token_counts(plain.index_window(rows, n), tokens)
    assert torch.equal(kernels.token_counts(kernels.index_window(rows, n), tokens), expected)


def test_lookup_of_packed_averages(kernels, window):
    _, n = window
    for lo, hi in ((0, n), (n // 3, max(n // 2, n // 3 + 1))):
        averages = torch.rand(plain.pairs_before(n, hi) - plain.pairs_before(n, lo))
        matrix = torch.zeros(n, n)
        i, j = later_pairs(n)
        held = (i >= lo) & (i < hi)
        matrix[i[held], j[held]] = averages
        matrix += matrix.T.clone()
        i, j = torch.randint(0, n, (2, 4, 30))
        assert torch.equal(kernels.lookup_dense(averages, n, lo, hi, i, j), matrix[i, j])


def test_rows_lists_and_histogram_of_counts(kernels, window):
    rows, n = window
    ours, theirs = kernels.index_window(rows, n), plain.index_window(rows, n)
    for lo, hi in ((0, n), (n // 3, n // 2), (n - 1, n)):
        assert torch.equal(kernels.count_rows(ours, lo, hi), plain.count_rows(theirs, lo, hi))
        histogram = kernels.count_histogram(ours, lo, hi)
        assert torch.equal(histogram, plain.count_histogram(theirs, lo, hi))
        for least in (1, 3):
            listed = without_padding(kernels.distinct_pairs(ours, lo, hi, least))
            expected = torch.stack(plain.distinct_pairs(theirs, lo, hi, least))
            assert torch.equal(listed, expected)


def test_closing_a_window(closing, window):
    (kernels, step), (rows, n) = closing, window
    pieces = rows, rows[: rows.shape[0] // 2 + 1].flip(0)
    for lo, hi in ((0, n), (n // 3, max(n // 2, n // 3 + 1))):
        size = plain.pairs_before(n, hi) - plain.pairs_before(n, lo)
        room = torch.rand(size + 70 * n)  # what lies behind the averages must not be touched
        room *= torch.rand(len(room)) < 0.5
        results = []
        for version in (plain, kernels):
            ours = room.clone()
            first, second = (version.index_window(p, n) for p in pieces)
            sums = [version.close_dense(ours[:size], lo, hi, None, step, second)]
            sums.append(version.close_dense(ours[:size], lo, hi, first, step, second))
            results.append((ours, torch.stack(sums)))
        assert torch.equal(results[0][0], results[1][0])
        torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-6, atol=1e-12)


def test_more_rows_of_tiles_than_run_together(monkeypatch):
    kernels = version_of("cuda")
    monkeypatch.setattr(kernels, "TILE_EDGES", ((0, 16),))
    rows, n = random_rows(8, 30, 280, 9), 280
    counts = kernels.count_rows(kernels.index_window(rows, n), 3, n)
    assert torch.equal(counts, plain.count_rows(plain.index_window(rows, n), 3, n))


def test_adding_to_rows_that_come_several_times(kernels):
    rows = torch.tensor([3, 0, 3, 3, 5])
    for d in (1, 300):
        into, gradients = torch.randn(6, d), torch.randn(5, d)
        ours, expected = into.clone(), into.clone()
        kernels.add_rows(ours, rows, gradients)
        plain.add_rows(expected, rows, gradients)
        torch.testing.assert_close(ours, expected)
        assert torch.equal(ours[[1, 2, 4]], into[[1, 2, 4]])


@pytest.mark.parametrize("penalty", ["square", "abs"])
@pytest.mark.parametrize("k", [1, 2, 37])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_overlaps_and_slopes(kernels, penalty, k, dtype):
    X = torch.randn(3, k, 5, dtype=dtype)
    X[0, 0] = 0
    weights = torch.rand(3, k, k, dtype=dtype)
    weights = (weights + weights.mT).tril(-1) + (weights + weights.mT).triu(1)
    expected = plain.overlap_slopes(X @ X.mT, weights, penalty)
    ours = kernels.overlap_slopes(X @ X.mT, weights, penalty)
    tight = 1e-4 if dtype is torch.float32 else 1e-10
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tight, atol=tight)


@pytest.mark.parametrize("penalty", ["square", "abs"])
def test_activation_penalty(kernels, window, penalty):
    rows, n = window
    values = torch.rand(rows.shape, dtype=torch.float64) * (rows >= 0)
    for lo, hi in ((0, n), (n // 3, max(n // 2, n // 3 + 1))):
        weights = torch.rand(hi - lo, n, dtype=torch.float64).triu(lo + 1)
        total, gradient = kernels.activation_rows(rows, values, weights, lo, penalty)
        expected, by_values = plain.activation_rows(rows, values, weights, lo, penalty)
        torch.testing.assert_close(total, expected)
        torch.testing.assert_close(gradient * (rows >= 0), by_values * (rows >= 0))


class NothingWaits(TorchDispatchMode):
    """Fails at what would make the host wait for a device, had the tensors been on one."""

    WAITING = ("_local_scalar_dense", "lift_fresh", "nonzero", "masked_select", "bincount", "equal")

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function._schema.name.removeprefix("aten::")
        masks = [t for t in arguments[1] if t is not None] if name.startswith("index") else []
        by_mask = any(getattr(t, "dtype", None) == torch.bool for t in masks)
        assert not (name in self.WAITING or "unique" in name or by_mask), f"{name} waits"
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize(
    "waiting",
    [lambda t: t.sum().item(), lambda t: t[t > 0], lambda t: t.unique(), lambda t: t.nonzero()],
)
def test_waiting_is_noticed(waiting):
    with pytest.raises(AssertionError, match="waits"), NothingWaits():
        waiting(torch.arange(3))


@pytest.mark.parametrize("cost_of_listing", [2**40, 0])
@pytest.mark.parametrize("step", STEPS)
def test_nothing_that_happens_in_a_step_waits(monkeypatch, step, cost_of_listing):
    kernels = version_of("cuda")
    monkeypatch.setattr(kernels, "COST_OF_LISTING", cost_of_listing)
    rows, n = WINDOWS["random"]()
    tokens, averages, pairs = torch.arange(5), torch.rand(n * (n - 1) // 2), torch.arange(n)
    known = kernels.PairMap(torch.device("cpu"), 40)
    with NothingWaits():
        index = kernels.index_window(kernels.sorted_rows(rows.flip(1), n), n)
        kernels.pair_counts(index, pairs, pairs.flip(0))
        kernels.token_counts(index, tokens)
        kernels.count_rows(index, 0, n)
        kernels.close_dense(averages, 0, n, index, step, index)
        for lo, hi, least in ((0, n, 1), (3, 20, 1), (0, n, 3)):
            kernels.distinct_pairs(index, lo, hi, least)
        known.store(pairs, pairs.float())
        known.update_all(lambda keys, values: values + keys)
        known.lookup(pairs)
    assert torch.equal(known.lookup(pairs), 2.0 * pairs)


@pytest.mark.parametrize("n_tokens", [2**16 - 1, 2**16])
def test_counts_at_the_limit_of_16_bits(kernels, n_tokens):
    rows = torch.tensor([[0, 2]], dtype=torch.int32).expand(n_tokens, 2).contiguous()
    index = kernels.index_window(rows, 3)
    listed = without_padding(kernels.distinct_pairs(index, 0, 3))
    assert listed.tolist() == [[0], [2], [n_tokens]]
    averages = torch.zeros(3)
    kernels.close_dense(averages, 0, 3, index, AlphaStep(PAIR, 1.0, 1.0), index)
    assert averages.tolist() == [0.0, 1.0, 0.0]
    assert int(kernels.count_histogram(index, 0, 3)[-1]) == 1


def check_window(kernels, rows, n, step):
    ours, theirs = kernels.index_window(rows, n), plain.index_window(rows, n)
    expected = plain.count_rows(theirs, 0, n)
    assert torch.equal(kernels.count_rows(ours, 0, n), expected)
    i, j = later_pairs(n)
    assert torch.equal(kernels.pair_counts(ours, i, j), expected[i, j])
    averages = torch.rand(len(i))
    copy = averages.clone()
    a = kernels.close_dense(averages, 0, n, ours, step, ours)
    b = plain.close_dense(copy, 0, n, theirs, step, theirs)
    assert torch.equal(averages, copy)
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-12)


@st.composite
def windows(draw):
    n, tokens = draw(st.integers(1, 150)), draw(st.integers(1, 90))
    return random_rows(draw(st.integers(0, 9999)), tokens, n, draw(st.integers(1, min(n, 30)))), n


@given(windows(), st.sampled_from(STEPS))
@settings(max_examples=60, deadline=None)
def test_any_window_on_the_cpu(window, step):
    check_window(version_of("cpu"), *window, step)


@given(windows(), st.sampled_from(STEPS))
@settings(max_examples=15, deadline=None)
def test_any_window_on_a_card(window, step):
    check_window(version_of("cuda"), *window, step)


def test_nothing_depends_on_the_number_of_threads():
    """A run repeats to the bit on a machine with other cores, as far as this package goes."""
    kernels = importlib.import_module("temporal_sae.kernels.cpu")
    rows, n = WINDOWS["more than a block"]()
    values = torch.rand(rows.shape) * (rows >= 0)
    weights = torch.rand(n, n).triu(1)
    gram, pairs = torch.rand(3, 40, 40), torch.rand(3, 40, 40)
    before, threads = torch.rand(plain.pairs_before(n, n)), torch.get_num_threads()
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        averages, index = before.clone(), kernels.index_window(rows, n)
        total = kernels.close_dense(averages, 0, n, index, STEPS[0], index)
        by_values = kernels.activation_rows(rows, values, weights, 0, "square")
        slopes = kernels.overlap_slopes(gram.clone(), pairs, "square")
        results.append([averages, total, *by_values, *slopes, *kernels.distinct_pairs(index, 0, n)])
    torch.set_num_threads(threads)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))
