"""The gradient that holds some rows is that of the whole matrix."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temporal_sae.kernels import row_gradient
from temporal_sae.kernels.row_gradient import RowGradient, take_rows

N, D = 12, 3
PARTS = st.lists(st.lists(st.integers(0, N - 1), max_size=9), max_size=4)


def whole(gradient):
    matrix = torch.zeros(N, D)
    matrix[gradient.rows] = gradient.values
    return matrix


def assert_holds(gradient, expected):
    assert len(gradient.rows) == len(gradient.values) == len(gradient.rows.unique())
    assert torch.equal(gradient.places[gradient.rows], torch.arange(len(gradient.rows)))
    assert int((gradient.places >= 0).sum()) == len(gradient.rows)
    torch.testing.assert_close(whole(gradient), expected)


@given(parts=PARTS, again=PARTS, room=st.sampled_from([0, 2, 100]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_adds_up_like_a_matrix_and_forgets(parts, again, room):
    """Rows in any order, one of them several times; a second time in what the first has left."""
    before, row_gradient.ROOM = row_gradient.ROOM, room
    gradient = RowGradient(N, D)
    for each in (parts, again):
        expected = torch.zeros(N, D)
        for rows in map(torch.tensor, each):
            pieces = torch.randn(len(rows), D)
            expected.index_add_(0, rows.long(), pieces)
            gradient.add(rows.long(), pieces)
        assert_holds(gradient, expected)
        gradient.clear()
        assert_holds(gradient, torch.zeros(N, D))
    row_gradient.ROOM = before


def test_to_add_to_every_row_keeps_what_is_there():
    gradient, first, all_rows = RowGradient(N, D), torch.ones(2, D), torch.randn(N, D)
    gradient.add(torch.tensor([7, 3]), first)
    gradient.add_all(all_rows)
    all_rows[[3, 7]] += 1
    assert_holds(gradient, all_rows)
    assert torch.equal(first, torch.ones(2, D))


def test_rows_that_are_taken_give_their_gradient_and_the_matrix_gets_none():
    """Those that the loss does not reach are not even held."""
    matrix, rows = torch.randn(D, N).requires_grad_(), torch.tensor([8, 1, 4])
    factors = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    gradient = RowGradient(N, D)
    taken = take_rows(matrix.T, rows, gradient)
    assert torch.equal(taken, matrix.T[rows])
    (taken * factors).sum().backward()
    assert matrix.grad is None
    assert sorted(gradient.rows.tolist()) == [4, 8]
    (take_rows(matrix.T, rows, None) * factors).sum().backward()
    torch.testing.assert_close(whole(gradient), matrix.grad.T)
