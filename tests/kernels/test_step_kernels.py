"""Every version of the operations of a training step, against `plain_step` and dense matrices."""

import importlib
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from temporal_sae.kernels import plain_step
from temporal_sae.kernels.plain_step import AdamStep
from tests.kernels.test_kernels import NothingWaits

# Triton's interpreter tells of it when numpy meets what is not finite.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")

VERSIONS = ["cpu_step", "cuda_step"]
NOT_FINITE = [float("nan"), float("inf"), -float("inf")]


class Inputs(NamedTuple):
    """Some tokens, the latents that they are about, and matrices to gather from."""

    indices: Tensor
    values: Tensor
    n: int
    W: Tensor
    X: Tensor

    def acts(self):
        """The values as a dense matrix [B, F]."""
        dense = torch.zeros(len(self.indices), self.n + 1)
        filled = torch.where(self.indices >= 0, self.indices, self.n)
        return dense.scatter(1, filled, self.values)[:, : self.n]


def inputs_of(indices, n, d):
    values = torch.randn(indices.shape) * (indices >= 0)
    return Inputs(indices, values, n, torch.randn(n, d), torch.randn(len(indices), d))


def random_inputs(tokens, n, k, d, full=0.8):
    """Distinct latents for each token, some slots empty."""
    indices = torch.rand(tokens, n).argsort(1)[:, :k]
    return inputs_of(indices.masked_fill(torch.rand(tokens, k) >= full, -1), n, d)


def one_everywhere():
    others = (torch.arange(70)[:, None] + torch.arange(3)) % 39
    return inputs_of(torch.cat([others, torch.full((70, 1), 39)], 1), 40, 33)


INPUTS = {
    "random": lambda: random_inputs(40, 37, 6, 45),
    "several tiles": lambda: random_inputs(9, 40, 20, 300),
    "more tokens than at once": lambda: random_inputs(70, 20, 3, 16),
    "one slot": lambda: random_inputs(20, 9, 1, 128),
    "one latent": lambda: inputs_of(torch.zeros(10, 1, dtype=torch.int64), 1, 129),
    "all slots empty": lambda: inputs_of(torch.full((8, 3), -1), 5, 17),
    "one token": lambda: random_inputs(1, 12, 5, 40),
    "no token": lambda: random_inputs(0, 12, 5, 40),
    "latents without a token": lambda: random_inputs(30, 90, 5, 8, full=0.3),
    "one everywhere": one_everywhere,
    "one column": lambda: random_inputs(15, 11, 4, 1),
    "all slots full": lambda: random_inputs(33, 8, 8, 20, full=2.0),
}


def version_of(name):
    if name == "cuda_step":
        pytest.importorskip("triton")
        if torch.cuda.is_available():
            pytest.skip("compiled kernels take no tensors of the CPU; tests/gpu tests them")
    return importlib.import_module(f"temporal_sae.kernels.{name}")


@pytest.fixture(params=VERSIONS)
def kernels(request):
    return version_of(request.param)


@pytest.fixture(params=INPUTS)
def inputs(request):
    return INPUTS[request.param]()


def assert_near(ours, expected):
    """Equal as far as sums of float32 in another order are."""
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5 * largest)


def pre_activations():
    """Some entries twice, rows with few positive ones, and one with none."""
    pre_acts = torch.randn(12, 50).mul_(8).round_().div_(8)
    pre_acts[3] = -pre_acts[3].abs()
    pre_acts[4, 2:] = -1.0
    pre_acts[5] = 0.0
    return pre_acts


@pytest.mark.parametrize("k", [1, 7, 50])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_the_largest_of_each_row(kernels, k, kind):
    pre_acts = pre_activations().to(kind)
    pre_acts[0, 9] = float("nan")
    values, indices = kernels.select_topk(pre_acts, k)
    expected, _ = plain_step.select_topk(pre_acts, k)
    order = torch.sort(values, dim=-1, descending=True).values
    torch.testing.assert_close(order, expected, rtol=0, atol=0, equal_nan=True)
    empty = indices < 0
    assert torch.equal(empty, values == 0)
    found = pre_acts.float().gather(1, indices.clamp(min=0)).masked_fill(empty, 0.0)
    torch.testing.assert_close(found, values, rtol=0, atol=0, equal_nan=True)
    chosen = torch.zeros(12, 51).scatter_add(1, indices.where(~empty, 50), torch.ones(12, k))
    assert chosen[:, :50].max() == 1


@pytest.mark.parametrize("n", [1, 30, 200, 600])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_the_nth_largest(kernels, n, kind):
    pre_acts = pre_activations().to(kind)
    assert float(kernels.kth_largest(pre_acts, n)) == float(plain_step.kth_largest(pre_acts, n))


def test_entries_above_thresholds(kernels):
    pre_acts, thresholds = pre_activations(), torch.rand(50)
    pre_acts[0, 9] = float("nan")
    for some in (pre_acts, pre_acts[3:4], pre_acts[:0]):
        expected = plain_step.list_above(some, thresholds)
        assert torch.equal(kernels.list_above(some, thresholds), expected)


def test_lists(kernels, inputs):
    starts, slots = kernels.list_by_latent(inputs.indices, inputs.n)
    expected = plain_step.list_by_latent(inputs.indices, inputs.n)
    size = int(expected.starts[-1])
    assert starts.tolist() == expected.starts.tolist()
    assert slots[:size].tolist() == expected.slots[:size].tolist()


def test_gathering(kernels, inputs):
    indices, values, _, W, X = inputs
    ours, expected = (m.decode_rows(values, indices, W) for m in (kernels, plain_step))
    assert_near(ours, expected)
    ours, expected = (m.dot_rows(X, indices, W) for m in (kernels, plain_step))
    assert_near(ours, expected)
    assert not ours[indices < 0].any()


def test_sums_by_latent(kernels, inputs):
    indices, values, n, _, X = inputs
    ours, expected = (
        m.sum_by_latent(m.list_by_latent(indices, n), values, X) for m in (kernels, plain_step)
    )
    assert_near(ours, expected)
    unused = torch.ones(n + 1, dtype=torch.bool).index_fill(0, indices.flatten(), False)[:n]
    assert not ours[unused].any()


@pytest.mark.parametrize("name", ["several tiles", "one slot", "one column"])
def test_matrices_of_bfloat16(name):
    kernels = version_of("cuda_step")
    indices, values, n, W, X = INPUTS[name]()
    W, X = W.bfloat16(), X.bfloat16()
    decoded = kernels.decode_rows(values, indices, W)
    assert_near(decoded, plain_step.decode_rows(values, indices, W.float()))
    dots = kernels.dot_rows(X, indices, W)
    assert_near(dots, plain_step.dot_rows(X.float(), indices, W.float()))
    lists = kernels.list_by_latent(indices, n)
    sums = kernels.sum_by_latent(lists, values, X)
    assert_near(sums, plain_step.sum_by_latent(lists, values, X.float()))


def test_tensors_that_are_not_contiguous(kernels):
    indices, values, n, W, X = random_inputs(20, 15, 4, 24)
    scattered = [t.T.contiguous().T for t in (indices, values, W, X)]
    assert not any(t.is_contiguous() for t in scattered)
    i, v, w, x = scattered
    assert_near(kernels.decode_rows(v, i, w), plain_step.decode_rows(values, indices, W))
    assert_near(kernels.dot_rows(x, i, w), plain_step.dot_rows(X, indices, W))
    lists = kernels.list_by_latent(i, n)
    assert_near(kernels.sum_by_latent(lists, v, x), plain_step.sum_by_latent(lists, values, X))


def check_products(kernels, inputs):
    """All three are products with the dense matrix of activations, or parts of one."""
    indices, values, n, W, X = inputs
    assert_near(kernels.decode_rows(values, indices, W), inputs.acts() @ W)
    dots = (X @ W.T).gather(1, indices.clamp(min=0)) * (indices >= 0)
    torch.testing.assert_close(kernels.dot_rows(X, indices, W), dots, rtol=1e-4, atol=1e-4)
    sums = kernels.sum_by_latent(kernels.list_by_latent(indices, n), values, X)
    assert_near(sums, inputs.acts().T @ X)


@st.composite
def any_inputs(draw):
    torch.manual_seed(draw(st.integers(0, 9999)))
    n = draw(st.integers(1, 30))
    tokens, k, d = (draw(st.integers(1, most)) for most in (15, min(n, 20), 150))
    return random_inputs(tokens, n, k, d, draw(st.sampled_from([0.2, 0.8, 2.0])))


@given(any_inputs())
@settings(max_examples=60, deadline=None)
def test_any_products_on_the_cpu(inputs):
    check_products(version_of("cpu_step"), inputs)
    check_products(plain_step, inputs)


@given(any_inputs())
@settings(max_examples=15, deadline=None)
def test_any_products_on_a_card(inputs):
    check_products(version_of("cuda_step"), inputs)


SHAPES = [(1, 1), (7, 37), (3, 300), (2, 1100), (1, 5000), (40, 8), (5, 128)]


def unit(matrix):
    return matrix / matrix.norm(dim=-1, keepdim=True)


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
    for norm in (ours, plain_step.squared_norm(weights, gradient, unit_rows)):
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
        for version, (weights, mean, square) in zip((kernels, plain_step), states, strict=True):
            version.adam_(weights, gradient.clone(), mean, square, adam_step(t), clip, unit_rows)
    for ours, expected in zip(*states, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_a_clip_of_any_precision(kernels, kind):
    weights, gradient = torch.randn(2, 4, 10)
    ours, expected = (weights.clone() for _ in range(2))
    for version, changed in ((kernels, ours), (plain_step, expected)):
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
    check_unit_rows(version_of("cpu_step"), *descent)


@given(any_descent())
@settings(max_examples=10, deadline=None)
def test_any_unit_rows_on_a_card(descent):
    check_unit_rows(version_of("cuda_step"), *descent)


@pytest.mark.parametrize("clip", NOT_FINITE)
@pytest.mark.parametrize("unit_rows", [False, True])
def test_nothing_changes_without_a_finite_clip(kernels, clip, unit_rows):
    state = [unit(torch.randn(5, 37)), torch.randn(5, 37), torch.rand(5, 37)]
    before = [t.clone() for t in state]
    gradient = torch.full((5, 37), clip)
    weights, mean, square = state
    clip = torch.tensor(clip)
    kernels.adam_(weights, gradient, mean, square, adam_step(1), clip, unit_rows)
    assert all(torch.equal(new, old) for new, old in zip(state, before, strict=True))


def test_rows_of_zeros_stay_where_no_gradient_moves_them(kernels):
    weights, mean, square = torch.zeros(3, 3, 37)
    gradient = torch.zeros(3, 37)
    kernels.adam_(weights, gradient, mean, square, adam_step(1), torch.tensor(1.0), True)
    assert not torch.stack([weights, mean, square]).any()


def test_an_eps_of_zero_spoils_no_row(kernels):
    """What lies past the end of a row, where a program is wider, must not count."""
    weights, gradient = unit(torch.randn(3, 37)), torch.randn(3, 37)
    mean, square = torch.zeros(2, 3, 37)
    kernels.adam_(weights, gradient, mean, square, adam_step(1, 0.0), torch.tensor(1.0), True)
    torch.testing.assert_close(weights.norm(dim=-1), torch.ones(3))


class NothingLarge(TorchDispatchMode):
    """Fails where a tensor of floats is made of more than some entries."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        made = function(*arguments, **(options or {}))
        floats = isinstance(made, Tensor) and made.is_floating_point()
        assert not floats or made.numel() <= self.most, f"{function} makes {made.numel()} entries"
        return made


def take_a_step(kernels, inputs, clip):
    """Every operation but `list_above`, and the tensors that come of them."""
    indices, values, n, W, X = inputs
    mean, square = torch.zeros_like(W), torch.zeros_like(W)
    lists = kernels.list_by_latent(indices, n)
    errors = kernels.decode_rows(values, indices, W) - X
    slopes = kernels.dot_rows(errors, indices, W)
    gradient = kernels.sum_by_latent(lists, slopes, X)
    norms = [kernels.squared_norm(W, gradient, unit_rows) for unit_rows in (False, True)]
    for unit_rows in (False, True):
        kernels.adam_(W, gradient, mean, square, adam_step(1), clip, unit_rows)
    selected = [*kernels.select_topk(X, 1), kernels.kth_largest(X, 2)]
    return [*selected, *lists, errors, slopes, gradient, *norms, W, mean, square]


def test_no_step_waits_for_the_card():
    kernels, inputs, clip = version_of("cuda_step"), INPUTS["one column"](), torch.tensor(0.5)
    with NothingWaits():
        take_a_step(kernels, inputs, clip)


def test_nothing_of_tokens_by_slots_by_width_is_made(kernels):
    inputs = random_inputs(32, 24, 16, 64)
    with NothingLarge(inputs.X.numel()):
        take_a_step(kernels, inputs, torch.tensor(0.5))


def test_nothing_depends_on_the_number_of_threads():
    kernels, inputs = version_of("cpu_step"), random_inputs(130, 60, 20, 300, 2.0)
    threads, results = torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        fresh = inputs._replace(W=unit(inputs.W))
        results.append(take_a_step(kernels, fresh, torch.tensor(0.5)))
    torch.set_num_threads(threads)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))
