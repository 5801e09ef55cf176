"""Directions of features that are pushed apart."""

import pytest
import torch

from temporal_sae.activations.directions import draw_directions
from temporal_sae.activations.world import World, WorldOptions

WELCH = ((128 - 64) / (64 * 127)) ** 0.5  # no 128 directions in 64 dimensions have smaller overlaps


def drawn(n, d, steps, seed=0):
    return draw_directions(n, d, steps, torch.Generator().manual_seed(seed))


def largest_overlap(directions):
    return float((directions @ directions.T).fill_diagonal_(0).abs().max())


def test_the_largest_overlap_comes_near_to_the_least_that_is_possible():
    assert largest_overlap(drawn(128, 64, 0)) > 0.35
    apart = drawn(128, 64, 300)
    assert WELCH <= largest_overlap(apart) < 1.5 * WELCH
    torch.testing.assert_close(apart.norm(dim=-1), torch.ones(128))


def test_few_directions_become_orthogonal():
    assert largest_overlap(drawn(16, 32, 300)) < 0.02


@pytest.mark.parametrize("n_threads", [1, 2])
def test_the_number_of_threads_does_not_show(n_threads):
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        assert torch.equal(drawn(128, 64, 300, seed=5), EXPECTED)
    finally:
        torch.set_num_threads(before)


EXPECTED = drawn(128, 64, 300, seed=5)


def test_a_world_without_steps_is_as_it_was_and_its_roles_do_not_depend_on_them():
    plain, apart = (World(WorldOptions(orthogonal_steps=n), 3) for n in (0, 20))
    assert torch.equal(plain.directions, World(WorldOptions(), 3).directions)
    assert not torch.equal(plain.directions, apart.directions)
    assert torch.equal(plain.true_pairs, apart.true_pairs)
