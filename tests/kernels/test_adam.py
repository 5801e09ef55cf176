"""One step of Adam by every back end, against `naive` and torch's optimizer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temporal_sae.kernels.adam import AdamStep, Sleep, naive
from tests.kernels.back_ends import NothingLarge, NothingWaits, back_end
from tests.kernels.inputs import unit

# Triton's interpreter tells of it when numpy meets what is not finite.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")

NOT_FINITE = [float("nan"), float("inf"), -float("inf")]
SHAPES = [(1, 1), (7, 37), (3, 300), (2, 1100), (1, 5000), (40, 8), (5, 128)]


@pytest.fixture(params=["cpu", "triton"])
def kernels(request):
    return back_end("adam", request.param)


def across(gradient, weights):
    """Gradients at right angles to rows of unit length."""
    return gradient - (gradient * weights).sum(-1, keepdim=True) * weights


def adam_step(t, eps=1e-3):
    """Step t, from 1; the large eps keeps apart what cancels and what is rounded."""
    return AdamStep(1e-2, 0.9, 0.999, eps, 1 - 0.9**t, 1 - 0.999**t)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("unit_rows", [False, True])
def test_squared_norms(kernels, shape, unit_rows):
    weights, gradient = unit(torch.randn(shape)), torch.randn(shape)
    ours = kernels.squared_norm(weights, gradient, unit_rows)
    assert ours.shape == ()
    left = across(gradient.double(), weights.double()) if unit_rows else gradient.double()
    rounded = 1e-6 * float(gradient.square().sum())
    for norm in (ours, naive.squared_norm(weights, gradient, unit_rows)):
        torch.testing.assert_close(norm.double(), left.square().sum(), rtol=1e-5, atol=rounded)


@pytest.mark.parametrize("wrong", NOT_FINITE)
@pytest.mark.parametrize("unit_rows", [False, True])
def test_a_gradient_that_is_not_finite_has_no_finite_norm(kernels, wrong, unit_rows):
    weights, gradient = unit(torch.randn(5, 37)), torch.randn(5, 37)
    gradient[3, 30] = wrong
    assert not kernels.squared_norm(weights, gradient, unit_rows).isfinite()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("unit_rows", [False, True])
def test_adam(kernels, shape, unit_rows):
    start = torch.randn(shape)
    start = unit(start) if unit_rows else start
    states = [[start.clone(), torch.zeros(shape), torch.zeros(shape)] for _ in range(2)]
    for t in range(1, 5):
        gradient, clip = torch.randn(shape), torch.rand(())
        for version, (weights, mean, square) in zip((kernels, naive), states, strict=True):
            version.adam_(weights, gradient.clone(), mean, square, adam_step(t), clip, unit_rows)
    for ours, expected in zip(*states, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_a_clip_of_any_precision(kernels, kind):
    weights, gradient = torch.randn(2, 4, 10)
    ours, expected = (weights.clone() for _ in range(2))
    for version, changed in ((kernels, ours), (naive, expected)):
        mean, square = torch.zeros(2, 4, 10)
        clip = torch.tensor(0.3, dtype=kind)
        version.adam_(changed, gradient, mean, square, adam_step(1), clip, False)
    torch.testing.assert_close(ours, expected)


def check_against_torch(kernels, weights, gradients, unit_rows, eps):
    """The state after some gradients is that of torch's optimizer; a clip halves every one."""
    theirs = torch.nn.Parameter(weights.clone())
    optimizer = torch.optim.Adam([theirs], lr=1e-2, betas=(0.9, 0.999), eps=eps)
    mean, square = torch.zeros_like(weights), torch.zeros_like(weights)
    for t, gradient in enumerate(gradients, 1):
        theirs.grad = (across(gradient, theirs.detach()) if unit_rows else gradient) / 2
        optimizer.step()
        if unit_rows:
            theirs.data = unit(theirs.data)
        clip = torch.tensor(0.5)
        kernels.adam_(weights, gradient, mean, square, adam_step(t, eps), clip, unit_rows)
    moments = optimizer.state[theirs]
    torch.testing.assert_close(weights, theirs.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mean, moments["exp_avg"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(square, moments["exp_avg_sq"], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("eps", [1e-8, 1e-3])
def test_adam_is_torchs(kernels, eps):
    check_against_torch(kernels, torch.randn(6, 50), torch.randn(10, 6, 50), False, eps)


def test_adam_of_unit_rows_is_torchs_between_projections(kernels):
    check_against_torch(kernels, unit(torch.randn(6, 50)), torch.randn(10, 6, 50), True, 1e-3)


@st.composite
def any_descent(draw):
    torch.manual_seed(draw(st.integers(0, 9999)))
    rows, n = draw(st.integers(1, 6)), draw(st.integers(2, 70))
    size = 10.0 ** draw(st.integers(-3, 3))
    return unit(torch.randn(rows, n)), size * torch.randn(3, rows, n)


def check_unit_rows(kernels, weights, gradients):
    """Rows keep their length, and neither their part of the gradient nor its norm counts it."""
    other = [weights.clone(), torch.zeros_like(weights), torch.zeros_like(weights)]
    mean, square = torch.zeros_like(weights), torch.zeros_like(weights)
    clip = torch.tensor(1.0)
    for t, gradient in enumerate(gradients, 1):
        size = float(gradient.norm())
        norm = kernels.squared_norm(weights, gradient, True)
        along = gradient + weights * gradient.norm(dim=-1, keepdim=True)
        shifted = kernels.squared_norm(weights, along, True)
        torch.testing.assert_close(norm.double(), shifted.double(), rtol=1e-4, atol=1e-5 * size**2)
        before, kept = weights.clone(), 0.9 * mean
        step = adam_step(t, 1e-2 * size)
        kernels.adam_(weights, gradient, mean, square, step, clip, True)
        kernels.adam_(*other[:1], along, *other[1:], step, clip, True)
        torch.testing.assert_close(weights.norm(dim=-1), torch.ones(len(weights)))
        torch.testing.assert_close(weights, other[0], rtol=1e-4, atol=1e-5)
        added = (mean - kept) * before
        assert float(added.sum(-1).abs().max()) <= 1e-5 * size


@given(any_descent())
@settings(max_examples=40, deadline=None)
def test_any_unit_rows_on_the_cpu(descent):
    check_unit_rows(back_end("adam", "cpu"), *descent)


@given(any_descent())
@settings(max_examples=10, deadline=None)
def test_any_unit_rows_on_a_card(descent):
    check_unit_rows(back_end("adam", "triton"), *descent)


@pytest.mark.parametrize("clip", NOT_FINITE)
@pytest.mark.parametrize("unit_rows", [False, True])
def test_nothing_changes_without_a_finite_clip(kernels, clip, unit_rows):
    state = [unit(torch.randn(5, 37)), torch.randn(5, 37), torch.rand(5, 37)]
    before = [t.clone() for t in state]
    gradient = torch.full((5, 37), clip)
    weights, mean, square = state
    clip = torch.tensor(clip)
    arguments = (gradient, mean, square, adam_step(1), clip, unit_rows)
    kernels.adam_(weights, *arguments)
    kernels.adam_rows_(weights, *arguments, asleep([0, 1, 2, 3, 4], [0] * 5, 1, 1))
    assert all(torch.equal(new, old) for new, old in zip(state, before, strict=True))


def test_rows_of_zeros_stay_where_no_gradient_moves_them(kernels):
    weights, mean, square = torch.zeros(3, 3, 37)
    gradient = torch.zeros(3, 37)
    kernels.adam_(weights, gradient, mean, square, adam_step(1), torch.tensor(1.0), True)
    assert not torch.stack([weights, mean, square]).any()


def test_an_eps_of_zero_spoils_no_row(kernels):
    """Numbers past the end of a row, where a program is wider, do not count."""
    weights, gradient = unit(torch.randn(3, 37)), torch.randn(3, 37)
    mean, square = torch.zeros(2, 3, 37)
    kernels.adam_(weights, gradient, mean, square, adam_step(1, 0.0), torch.tensor(1.0), True)
    torch.testing.assert_close(weights.norm(dim=-1), torch.ones(3))


def asleep(places, until, now, lasts):
    return Sleep(torch.tensor(places), torch.tensor(until), now, lasts)


@pytest.mark.parametrize("unit_rows", [False, True])
def test_rows_without_a_gradient_move_as_by_one_of_zeros(kernels, unit_rows):
    start = unit(torch.randn(5, 37))
    ours, whole = ([start.clone(), torch.zeros(5, 37), torch.zeros(5, 37)] for _ in range(2))
    until, clip = torch.zeros(5, dtype=torch.int64), torch.tensor(0.5)
    for t in range(1, 6):
        gradient = torch.zeros(5, 37)
        places = torch.full((5,), -1)
        chosen = torch.randperm(5)[: t % 3]
        places[chosen] = torch.arange(len(chosen))
        gradient[chosen] = torch.randn(len(chosen), 37)
        sleep = Sleep(places, until, t, 100)
        step = adam_step(t)
        kernels.adam_rows_(ours[0], gradient[chosen], *ours[1:], step, clip, unit_rows, sleep)
        kernels.adam_(whole[0], gradient, *whole[1:], step, clip, unit_rows)
    for mine, expected in zip(ours, whole, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-6, atol=1e-7)


def test_averages_of_a_row_that_wakes_have_decayed_and_nobody_touches_the_others(kernels):
    """Last awake in step 3, it has missed 4, 5 and 6; a row awake until 7 still moves."""
    weights, mean, square = torch.randn(3, 3, 4).abs()
    before = [t.clone() for t in (weights, mean, square)]
    sleep = asleep([0, -1, -1], [3, 6, 7], 7, 10)
    arguments = (adam_step(7), torch.tensor(1.0), False)
    kernels.adam_rows_(weights, torch.ones(1, 4), mean, square, *arguments, sleep)
    torch.testing.assert_close(mean[0], 0.9**4 * before[1][0] + 0.1)
    torch.testing.assert_close(square[0], 0.999**4 * before[2][0] + 0.001)
    changed = zip((weights, mean, square), before, strict=True)
    assert all(torch.equal(now[1], old[1]) for now, old in changed)
    torch.testing.assert_close(mean[2], 0.9 * before[1][2])
    assert (weights[2] < before[0][2]).all()
    assert sleep.awake_until.tolist() == [17, 6, 7]


def take_a_step(kernels, start, gradient):
    """The norms of a gradient, and weights and averages after a step."""
    weights, clip = start.clone(), torch.tensor(0.5)
    mean, square = torch.zeros_like(weights), torch.zeros_like(weights)
    norms = [kernels.squared_norm(weights, gradient, unit_rows) for unit_rows in (False, True)]
    for unit_rows in (False, True):
        kernels.adam_(weights, gradient, mean, square, adam_step(1), clip, unit_rows)
    return *norms, weights, mean, square


def test_no_step_waits_for_the_card():
    kernels, clip = back_end("adam", "triton"), torch.tensor(0.5)
    weights, gradient, mean, square = torch.rand(4, 11, 5)
    with NothingWaits():
        for unit_rows in (False, True):
            kernels.squared_norm(weights, gradient, unit_rows)
            kernels.adam_(weights, gradient, mean, square, adam_step(1), clip, unit_rows)


def test_nothing_larger_than_the_weights_is_made(kernels):
    weights, gradient = unit(torch.randn(32, 64)), torch.randn(32, 64)
    with NothingLarge(weights.numel()):
        take_a_step(kernels, weights, gradient)


def test_nothing_depends_on_the_number_of_threads(on_1_to_3_threads):
    kernels = back_end("adam", "cpu")
    weights, gradient = unit(torch.randn(60, 300)), torch.randn(60, 300)
    on_1_to_3_threads(lambda: take_a_step(kernels, weights, gradient))
