"""Overlaps and their gradients by every back end against `naive`."""

import pytest
import torch

from temporal_sae.kernels.overlap import naive
from tests.kernels.back_ends import back_end
from tests.kernels.inputs import WINDOWS


@pytest.fixture(params=["cpu", "triton"])
def kernels(request):
    return back_end("overlap", request.param)


@pytest.fixture(params=WINDOWS)
def window(request):
    return WINDOWS[request.param]()


def test_adding_to_rows_that_come_several_times(kernels):
    rows = torch.tensor([3, 0, 3, 3, 5])
    for d in (1, 300):
        into, gradients = torch.randn(6, d), torch.randn(5, d)
        ours, expected = into.clone(), into.clone()
        kernels.add_rows(ours, rows, gradients)
        naive.add_rows(expected, rows, gradients)
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
    expected = naive.overlap_slopes(X @ X.mT, weights, penalty)
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
        expected, by_values = naive.activation_rows(rows, values, weights, lo, penalty)
        torch.testing.assert_close(total, expected)
        torch.testing.assert_close(gradient * (rows >= 0), by_values * (rows >= 0))


def test_nothing_depends_on_the_number_of_threads(on_1_to_3_threads):
    kernels, (rows, n) = back_end("overlap", "cpu"), WINDOWS["more than a block"]()
    values, weights = torch.rand(rows.shape) * (rows >= 0), torch.rand(n, n).triu(1)
    gram, pairs = torch.rand(3, 40, 40), torch.rand(3, 40, 40)

    def work():
        by_values = kernels.activation_rows(rows, values, weights, 0, "square")
        return *by_values, *kernels.overlap_slopes(gram.clone(), pairs, "square")

    on_1_to_3_threads(work)
