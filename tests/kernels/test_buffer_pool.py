"""Memory that is handed from one step's gradients to the next one's."""

import pytest
import torch

from temporal_sae.kernels import buffer_pool

SHAPE = (1024, 2048)  # 8 MiB


@pytest.fixture(autouse=True)
def nothing_kept():
    buffer_pool.clear()
    yield
    buffer_pool.clear()


def test_what_was_given_comes_back_once():
    tensor = torch.ones(SHAPE)
    buffer_pool.release(tensor)
    again = buffer_pool.empty(*SHAPE)
    assert again.data_ptr() == tensor.data_ptr()
    assert buffer_pool.empty(*SHAPE).data_ptr() != tensor.data_ptr()


def test_a_transpose_is_kept_as_it_lies_in_memory():
    tensor = torch.ones(SHAPE)
    buffer_pool.release(tensor.T)
    again = buffer_pool.empty(*SHAPE)
    assert again.is_contiguous()
    assert again.data_ptr() == tensor.data_ptr()
    assert not again._is_view()  # or a result of autograd could not be changed in place


@pytest.mark.parametrize(
    "tensor",
    [torch.ones(4, 4), torch.ones(SHAPE, dtype=torch.float64), torch.ones(1024, 4096)[:, ::2]],
    ids=["small", "of another type", "with holes"],
)
def test_what_is_not_worth_it_is_not_kept(tensor):
    buffer_pool.release(tensor)
    other = buffer_pool.empty(*tensor.shape)
    assert other.data_ptr() != tensor.data_ptr()
    assert other.dtype == torch.float32


def test_no_more_than_two_of_a_shape_are_kept():
    given = [torch.ones(SHAPE) for _ in range(3)]
    for tensor in given:
        buffer_pool.release(tensor)
    kept = {buffer_pool.empty(*SHAPE).data_ptr() for _ in range(3)}
    assert len(kept & {tensor.data_ptr() for tensor in given}) == 2
