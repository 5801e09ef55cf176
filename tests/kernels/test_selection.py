"""Choosing latents by every back end against `naive`."""

import pytest
import torch

from temporal_sae.kernels.selection import naive
from tests.kernels.back_ends import NothingWaits, back_end


@pytest.fixture(params=["cpu", "triton"])
def kernels(request):
    return back_end("selection", request.param)


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
    expected, _ = naive.select_topk(pre_acts, k)
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
    assert float(kernels.kth_largest(pre_acts, n)) == float(naive.kth_largest(pre_acts, n))


def test_entries_above_thresholds(kernels):
    pre_acts, thresholds = pre_activations(), torch.rand(50)
    pre_acts[0, 9] = float("nan")
    for some in (pre_acts, pre_acts[3:4], pre_acts[:0]):
        expected = naive.list_above(some, thresholds)
        assert torch.equal(kernels.list_above(some, thresholds), expected)


def test_choosing_does_not_wait():
    kernels, pre_acts = back_end("selection", "triton"), pre_activations()
    with NothingWaits():
        kernels.select_topk(pre_acts, 5)
        kernels.kth_largest(pre_acts, 30)


def test_nothing_depends_on_the_number_of_threads(on_1_to_3_threads):
    kernels, pre_acts = back_end("selection", "cpu"), torch.randn(600, 256)
    on_1_to_3_threads(
        lambda: (
            *kernels.select_topk(pre_acts, 16),
            kernels.kth_largest(pre_acts, 5000),
            kernels.list_above(pre_acts, torch.ones(256)),
        )
    )
