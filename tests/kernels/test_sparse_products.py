"""Sparse products by every back end, against `naive` and dense matrices."""

from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temporal_sae.kernels.sparse_products import naive, walk
from tests.kernels.back_ends import NothingLarge, NothingWaits, back_end
from tests.kernels.inputs import INPUTS, assert_near, random_inputs


@pytest.fixture(params=["cpu", "triton"])
def kernels(request):
    return back_end("sparse_products", request.param)


@pytest.fixture(params=INPUTS)
def inputs(request):
    return INPUTS[request.param]()


def test_lists(kernels, inputs):
    starts, slots = kernels.list_by_latent(inputs.indices, inputs.n)
    expected = naive.list_by_latent(inputs.indices, inputs.n)
    size = int(expected.starts[-1])
    assert starts.tolist() == expected.starts.tolist()
    assert slots[:size].tolist() == expected.slots[:size].tolist()


def test_gathering(kernels, inputs):
    indices, values, _, W, X = inputs
    ours, expected = (m.decode_rows(values, indices, W) for m in (kernels, naive))
    assert_near(ours, expected)
    ours, expected = (m.dot_rows(X, indices, W) for m in (kernels, naive))
    assert_near(ours, expected)
    assert not ours[indices < 0].any()


def test_sums_by_latent(kernels, inputs):
    indices, values, n, _, X = inputs
    ours, expected = (
        m.sum_by_latent(m.list_by_latent(indices, n), values, X) for m in (kernels, naive)
    )
    assert_near(ours, expected)
    unused = torch.ones(n + 1, dtype=torch.bool).index_fill(0, indices.flatten(), False)[:n]
    assert not ours[unused].any()


@pytest.mark.parametrize("name", ["several tiles", "one slot", "one column"])
def test_matrices_of_bfloat16(name):
    kernels = back_end("sparse_products", "triton")
    indices, values, n, W, X = INPUTS[name]()
    W, X = W.bfloat16(), X.bfloat16()
    decoded = kernels.decode_rows(values, indices, W)
    assert_near(decoded, naive.decode_rows(values, indices, W.float()))
    dots = kernels.dot_rows(X, indices, W)
    assert_near(dots, naive.dot_rows(X.float(), indices, W.float()))
    lists = kernels.list_by_latent(indices, n)
    sums = kernels.sum_by_latent(lists, values, X)
    assert_near(sums, naive.sum_by_latent(lists, values, X.float()))


def test_tensors_that_are_not_contiguous(kernels):
    indices, values, n, W, X = random_inputs(20, 15, 4, 24)
    scattered = [t.T.contiguous().T for t in (indices, values, W, X)]
    assert not any(t.is_contiguous() for t in scattered)
    i, v, w, x = scattered
    assert_near(kernels.decode_rows(v, i, w), naive.decode_rows(values, indices, W))
    assert_near(kernels.dot_rows(x, i, w), naive.dot_rows(X, indices, W))
    lists = kernels.list_by_latent(i, n)
    assert_near(kernels.sum_by_latent(lists, v, x), naive.sum_by_latent(lists, values, X))


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
    check_products(back_end("sparse_products", "cpu"), inputs)
    check_products(naive, inputs)


@contextmanager
def latent_after_latent():
    """On the CPU, as where the matrix is larger than the caches, whatever its size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk, "BLOCK_BYTES", 0)
        yield back_end("sparse_products", "cpu")


@given(any_inputs())
@settings(max_examples=60, deadline=None)
def test_any_products_latent_after_latent(inputs):
    with latent_after_latent() as kernels:
        check_products(kernels, inputs)


@given(any_inputs())
@settings(max_examples=15, deadline=None)
def test_any_products_on_a_card(inputs):
    check_products(back_end("sparse_products", "triton"), inputs)


def all_products(kernels, inputs):
    """The results of every operation."""
    indices, values, n, W, X = inputs
    lists = kernels.list_by_latent(indices, n)
    errors = kernels.decode_rows(values, indices, W) - X
    slopes = kernels.dot_rows(errors, indices, W)
    return *lists, errors, slopes, kernels.sum_by_latent(lists, slopes, X)


def test_no_product_waits_for_the_card():
    kernels, inputs = back_end("sparse_products", "triton"), INPUTS["one column"]()
    with NothingWaits():
        all_products(kernels, inputs)


def test_nothing_of_tokens_by_slots_by_width_is_made(kernels):
    inputs = random_inputs(32, 24, 16, 64)
    with NothingLarge(inputs.X.numel()):
        all_products(kernels, inputs)


def test_nothing_depends_on_the_number_of_threads(on_1_to_3_threads):
    kernels = back_end("sparse_products", "cpu")
    for inputs in (random_inputs(130, 60, 20, 300, 2.0), random_inputs(600, 256, 16, 700, 2.0)):
        on_1_to_3_threads(lambda inputs=inputs: all_products(kernels, inputs))
        with latent_after_latent():
            on_1_to_3_threads(lambda inputs=inputs: all_products(kernels, inputs))


def test_products_with_a_matrix_larger_than_the_caches():
    inputs = random_inputs(130, 2200, 110, 640)
    ours, expected = (
        all_products(kernels, inputs) for kernels in (back_end("sparse_products", "cpu"), naive)
    )
    for own, same in zip(ours[2:], expected[2:], strict=True):
        assert_near(own, same)
