"""The kernels of a training step on a card against `naive` on the CPU."""

from contextlib import contextmanager

import pytest
import torch

from temporal_sae.kernels import adam, selection, sparse_products
from temporal_sae.kernels.adam import AdamStep

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
pytest.importorskip("triton")


def random_inputs(tokens, n, k, d, full=0.8):
    """Indices, values, the number of latents, and matrices with a row for a latent or a token."""
    indices = torch.rand(tokens, n).argsort(1)[:, :k]
    return inputs_of(indices.masked_fill(torch.rand(tokens, k) >= full, -1), n, d)


def inputs_of(indices, n, d):
    values = torch.randn(indices.shape) * (indices >= 0)
    return indices, values, n, torch.randn(n, d), torch.randn(len(indices), d)


def one_everywhere():
    others = (torch.arange(4100)[:, None] + torch.arange(3)) % 39
    return inputs_of(torch.cat([others, torch.full((4100, 1), 39)], 1), 40, 300)


INPUTS = {
    "a training step": lambda: random_inputs(1000, 4096, 32, 768),
    "odd width": lambda: random_inputs(333, 700, 20, 517),
    "many slots": lambda: random_inputs(50, 300, 150, 64),
    "one slot": lambda: random_inputs(20, 9, 1, 128),
    "one latent": lambda: inputs_of(torch.zeros(10, 1, dtype=torch.int64), 1, 129),
    "all slots empty": lambda: inputs_of(torch.full((8, 3), -1), 5, 17),
    "one token": lambda: random_inputs(1, 12, 5, 40),
    "no token": lambda: random_inputs(0, 12, 5, 40),
    "latents without a token": lambda: random_inputs(64, 5000, 5, 32, full=0.2),
    "one everywhere": one_everywhere,
    "one column": lambda: random_inputs(15, 11, 4, 1),
}
SHAPES = [(1, 1), (7, 37), (300, 768), (20, 4096), (3, 20000), (5, 128)]


@pytest.fixture(params=INPUTS)
def inputs(request):
    return INPUTS[request.param]()


@contextmanager
def nothing_waits():
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def twice(work, *arguments):
    """The result of some work that must not wait, but for its compilation the first time."""
    work(*arguments)
    with nothing_waits():
        return work(*arguments)


def assert_near(on_card, expected):
    """Equal as far as sums of float32 in another order are."""
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(on_card.cpu(), expected, rtol=1e-5, atol=1e-5 * largest)


def unit(matrix):
    return matrix / matrix.norm(dim=-1, keepdim=True)


def adam_step(t):
    return AdamStep(1e-2, 0.9, 0.999, 1e-3, 1 - 0.9**t, 1 - 0.999**t)


def test_selection():
    pre_acts = torch.randn(100, 3000)
    on_card = pre_acts.cuda()
    chosen = twice(selection.select_topk, on_card, 20)
    for ours, expected in zip(chosen, selection.naive.select_topk(pre_acts, 20), strict=True):
        assert torch.equal(ours.cpu(), expected)
    for n in (1, 2000, 200_000):
        ours = twice(selection.kth_largest, on_card, n)
        assert float(ours) == float(selection.naive.kth_largest(pre_acts, n))
    listed = selection.list_above(on_card, torch.ones(3000, device="cuda"))
    assert torch.equal(listed.cpu(), selection.naive.list_above(pre_acts, torch.ones(3000)))


def test_lists(inputs):
    indices, _, n, _, _ = inputs
    starts, slots = twice(sparse_products.list_by_latent, indices.cuda(), n)
    expected = sparse_products.naive.list_by_latent(indices, n)
    size = int(expected.starts[-1])
    assert torch.equal(starts.cpu().long(), expected.starts)
    assert torch.equal(slots[:size].cpu().long(), expected.slots[:size])


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_products(inputs, kind):
    indices, values, n, W, X = inputs
    W, X = W.to(kind), X.to(kind)
    i, v, w, x = (t.cuda() for t in (indices, values, W, X))
    decoded = twice(sparse_products.decode_rows, v, i, w)
    assert_near(decoded, sparse_products.naive.decode_rows(values, indices, W.float()))
    dots = twice(sparse_products.dot_rows, x, i, w)
    assert_near(dots, sparse_products.naive.dot_rows(X.float(), indices, W.float()))
    lists = sparse_products.list_by_latent(i, n)
    sums = twice(sparse_products.sum_by_latent, lists, v, x)
    expected = sparse_products.naive.list_by_latent(indices, n)
    assert_near(sums, sparse_products.naive.sum_by_latent(expected, values, X.float()))
    assert torch.equal(sums, sparse_products.sum_by_latent(lists, v, x))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("unit_rows", [False, True])
def test_squared_norms(shape, unit_rows):
    weights, gradient = unit(torch.randn(shape)), torch.randn(shape)
    ours = twice(adam.squared_norm, weights.cuda(), gradient.cuda(), unit_rows)
    expected = adam.naive.squared_norm(weights, gradient, unit_rows)
    rounded = 1e-6 * float(gradient.square().sum())
    torch.testing.assert_close(ours.cpu(), expected, rtol=1e-5, atol=rounded)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("unit_rows", [False, True])
def test_adam(shape, unit_rows):
    start = unit(torch.randn(shape)) if unit_rows else torch.randn(shape)
    state = [start, torch.zeros(shape), torch.zeros(shape)]
    on_card = [t.cuda() for t in state]

    def step_on_card(tensors, *numbers):
        weights, mean, square = tensors
        adam.adam_(weights, slope, mean, square, *numbers, unit_rows)

    for t in range(1, 5):
        gradient, clip = torch.randn(shape), torch.rand(())
        slope, factor = gradient.cuda(), clip.cuda()
        step_on_card([t.clone() for t in on_card], adam_step(t), factor)  # compiled
        with nothing_waits():
            step_on_card(on_card, adam_step(t), factor)
        weights, mean, square = state
        adam.naive.adam_(weights, gradient, mean, square, adam_step(t), clip, unit_rows)
    for ours, expected in zip(on_card, state, strict=True):
        torch.testing.assert_close(ours.cpu(), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("clip", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("unit_rows", [False, True])
def test_nothing_changes_without_a_finite_clip(clip, unit_rows):
    state = [t.cuda() for t in (unit(torch.randn(5, 37)), torch.randn(5, 37), torch.rand(5, 37))]
    before = [t.clone() for t in state]
    weights, mean, square = state
    gradient, factor = torch.full((5, 37), clip, device="cuda"), torch.tensor(clip, device="cuda")
    adam.adam_(weights, gradient, mean, square, adam_step(1), factor, unit_rows)
    assert all(torch.equal(new, old) for new, old in zip(state, before, strict=True))


def test_matrices_of_more_entries_than_31_bits_count():
    n, d = 2**20 + 1, 2**11
    if torch.cuda.mem_get_info()[0] < 30 * 2**30:
        pytest.skip("not enough memory on the card")
    W = torch.zeros(n, d, device="cuda")
    W[-1] = 1.0
    indices, values = torch.tensor([[n - 1, 0]], device="cuda"), torch.ones(1, 2, device="cuda")
    assert (sparse_products.decode_rows(values, indices, W) == 1).all()
    assert sparse_products.dot_rows(W[-1:], indices, W).tolist() == [[d, 0]]
    sums = sparse_products.sum_by_latent(sparse_products.list_by_latent(indices, n), values, W[-1:])
    assert sums[[0, 1, -1]].sum(-1).tolist() == [d, 0, d]
    sums.zero_()
    for unit_rows in (False, True):
        assert float(adam.squared_norm(sums, W, unit_rows)) == d


def test_a_second_card_works_too():
    if torch.cuda.device_count() < 2:
        pytest.skip("one card")
    indices, values, _, W, _ = random_inputs(20, 30, 4, 50)
    on_card = (t.to("cuda:1") for t in (values, indices, W))
    decoded = sparse_products.decode_rows(*on_card)
    assert_near(decoded, sparse_products.naive.decode_rows(values, indices, W))
