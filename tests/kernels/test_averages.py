"""Running averages by every back end against `naive`: averages agree to the bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temporal_sae.kernels.averages import CONST, PAIR, UNION, AlphaStep, pairs_before
from tests.kernels.back_ends import NothingWaits, back_end
from tests.kernels.inputs import WINDOWS, later_pairs, random_rows

STEPS = [AlphaStep(PAIR, 0.1, 3.0), AlphaStep(UNION, 0.3, 7.0), AlphaStep(CONST, 0.25, 1.0)]

# On a card all pairs are counted in tiles or, with α from the pair alone, those of the window
# listed.
CLOSINGS = {
    **{f"cpu-{step.source}": ("cpu", step, None) for step in STEPS},
    **{f"triton-{step.source}": ("triton", step, 2**40) for step in STEPS},
    "triton-listing": ("triton", STEPS[0], 0),
}


@pytest.fixture(params=["cpu", "triton"])
def name(request):
    return request.param


@pytest.fixture(params=CLOSINGS)
def closing(request, monkeypatch):
    """The name of a back end, and a step of α."""
    name, step, cost_of_listing = CLOSINGS[request.param]
    if cost_of_listing is not None:
        monkeypatch.setattr(back_end("averages", name), "COST_OF_LISTING", cost_of_listing)
    return name, step


@pytest.fixture(params=WINDOWS)
def window(request):
    return WINDOWS[request.param]()


def test_lookup_of_packed_averages(name, window):
    _, n = window
    for lo, hi in ((0, n), (n // 3, max(n // 2, n // 3 + 1))):
        averages = torch.rand(pairs_before(n, hi) - pairs_before(n, lo))
        matrix = torch.zeros(n, n)
        i, j = later_pairs(n)
        held = (i >= lo) & (i < hi)
        matrix[i[held], j[held]] = averages
        matrix += matrix.T.clone()
        i, j = torch.randint(0, n, (2, 4, 30))
        found = back_end("averages", name).lookup_dense(averages, n, lo, hi, i, j)
        assert torch.equal(found, matrix[i, j])


def test_closing_a_window(closing, window):
    (name, step), (rows, n) = closing, window
    pieces = rows, rows[: rows.shape[0] // 2 + 1].flip(0)
    for lo, hi in ((0, n), (n // 3, max(n // 2, n // 3 + 1))):
        size = pairs_before(n, hi) - pairs_before(n, lo)
        room = torch.rand(size + 70 * n)  # what lies behind the averages must not be touched
        room *= torch.rand(len(room)) < 0.5
        results = []
        for version in ("naive", name):
            close_dense = back_end("averages", version).close_dense
            ours = room.clone()
            first, second = (back_end("windows", version).index_window(p, n) for p in pieces)
            sums = [close_dense(ours[:size], lo, hi, None, step, second)]
            sums.append(close_dense(ours[:size], lo, hi, first, step, second))
            results.append((ours, torch.stack(sums)))
        assert torch.equal(results[0][0], results[1][0])
        torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("n_tokens", [2**16 - 1, 2**16])
def test_counts_at_the_limit_of_16_bits(name, n_tokens):
    rows = torch.tensor([[0, 2]], dtype=torch.int32).expand(n_tokens, 2).contiguous()
    index, averages = back_end("windows", name).index_window(rows, 3), torch.zeros(3)
    step = AlphaStep(PAIR, 1.0, 1.0)
    back_end("averages", name).close_dense(averages, 0, 3, index, step, index)
    assert averages.tolist() == [0.0, 1.0, 0.0]


@st.composite
def windows(draw):
    n, tokens = draw(st.integers(1, 150)), draw(st.integers(1, 90))
    return random_rows(draw(st.integers(0, 9999)), tokens, n, draw(st.integers(1, min(n, 30)))), n


def check_closing(name, rows, n, step):
    before = torch.rand(pairs_before(n, n))
    results = []
    for version in ("naive", name):
        averages, index = before.clone(), back_end("windows", version).index_window(rows, n)
        total = back_end("averages", version).close_dense(averages, 0, n, index, step, index)
        results.append((averages, total))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-6, atol=1e-12)


@given(windows(), st.sampled_from(STEPS))
@settings(max_examples=60, deadline=None)
def test_any_window_on_the_cpu(window, step):
    check_closing("cpu", *window, step)


@given(windows(), st.sampled_from(STEPS))
@settings(max_examples=15, deadline=None)
def test_any_window_on_a_card(window, step):
    check_closing("triton", *window, step)


@pytest.mark.parametrize("cost_of_listing", [2**40, 0])
@pytest.mark.parametrize("step", STEPS)
def test_closing_does_not_wait(monkeypatch, step, cost_of_listing):
    kernels = back_end("averages", "triton")
    monkeypatch.setattr(kernels, "COST_OF_LISTING", cost_of_listing)
    rows, n = WINDOWS["random"]()
    averages, latents = torch.rand(pairs_before(n, n)), torch.arange(n)
    index = back_end("windows", "triton").index_window(rows, n)
    with NothingWaits():
        kernels.close_dense(averages, 0, n, index, step, index)
        kernels.lookup_dense(averages, n, 0, n, latents, latents.flip(0))


def test_nothing_depends_on_the_number_of_threads(on_1_to_3_threads):
    """A run repeats to the bit on a machine with other cores, as far as this package goes."""
    rows, n = WINDOWS["more than a block"]()
    before, index = torch.rand(pairs_before(n, n)), back_end("windows", "cpu").index_window(rows, n)

    def work():
        averages = before.clone()
        close_dense = back_end("averages", "cpu").close_dense
        return averages, close_dense(averages, 0, n, index, STEPS[0], index)

    on_1_to_3_threads(work)
