"""Screening against the whole product: the same latents, whatever the data."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temporal_sae.kernels.screening import cpu, naive
from temporal_sae.kernels.screening.rounding import dithers, room_for, round_rows
from tests.kernels.back_ends import NothingLarge

D = 48


def rows(kind, n, d=D):
    """Activations that are easy to round, and some that are not."""
    x = torch.randn(n, d)
    if kind == "two values":
        return (torch.rand(n, d) < 0.3) * 0.37
    if kind == "one wide dimension":
        x[:, 3] *= 30
    if kind == "some empty rows":
        x[::3] = 0
    if kind == "sizes of all kinds":
        x *= torch.rand(n, 1).mul(12).sub(6).exp()
    return x


KINDS = ("normal", "two values", "one wide dimension", "some empty rows", "sizes of all kinds")


@st.composite
def problems(draw):
    torch.manual_seed(draw(st.integers(0, 9999)))
    n, n_latents = draw(st.integers(1, 40)), draw(st.sampled_from([1, 7, 600, 1024, 2500]))
    x = rows(draw(st.sampled_from(KINDS)), n)
    W = torch.randn(n_latents, D) * torch.rand(n_latents, 1).mul(draw(st.floats(0, 3))).exp()
    return x, W, torch.randn(n_latents) * draw(st.sampled_from([0.0, 0.1, 2.0]))


def latents(found):
    """The latents of each token with their values, in order."""
    filled = found.indices >= 0
    assert (found.values[~filled] == 0).all()
    assert (filled.int().diff(dim=1) <= 0).all()  # empty slots at the end
    pairs = zip(found.indices, found.values, filled, strict=True)
    return [dict(zip(i[f].tolist(), v[f].tolist(), strict=True)) for i, v, f in pairs]


def check_same(ours, expected, problem, least):
    """The same latents, but for those as near to the least wanted one as rounding."""
    sizes = rounding(*problem)
    for own, same, near, limit in zip(latents(ours), latents(expected), sizes, least, strict=True):
        assert list(own) == sorted(own)
        for i in own.keys() & same.keys():
            assert abs(own[i] - same[i]) <= near[i]
        for i in own.keys() ^ same.keys():
            assert abs({**own, **same}[i] - limit) <= 2 * near.max()


def rounding(x, W, bias):
    """How far a sum in float32 may be from another one, [B, F]."""
    return 1e-6 * (x.norm(dim=1, keepdim=True) * W.norm(dim=1) + bias.abs())


def least_values(found):
    return [min(values.values(), default=0.0) for values in latents(found)]


@given(problems(), st.integers(1, 60))
@settings(max_examples=80, deadline=None)
def test_the_largest_of_each_token(problem, k):
    x, W, bias = problem
    k = min(k, len(W))
    ours, expected = cpu.largest(x, W, bias, k), naive.largest(x, W, bias, k)
    if ours is not None:
        check_same(ours, expected, problem, least_values(expected))
        assert ours.n_scored <= x.shape[0] * len(W)


@given(problems(), st.floats(0.05, 60))
@settings(max_examples=80, deadline=None)
def test_the_largest_of_a_batch(problem, k):
    x, W, bias = problem
    n = min(math.ceil(k * len(x)), len(x) * len(W))
    ours, expected = cpu.largest_of_all(x, W, bias, n), naive.largest_of_all(x, W, bias, n)
    if ours is not None:
        least = min((v for v in least_values(expected) if v), default=0.0)
        check_same(ours, expected, problem, [least] * len(x))


@given(problems(), st.floats(0.5, 4))
@settings(max_examples=80, deadline=None)
def test_what_exceeds_thresholds(problem, height):
    x, W, bias = problem
    thresholds = height * W.norm(dim=1) * (0.5 + torch.rand(len(W)))
    ours = cpu.above(x, W, bias, thresholds)
    expected = naive.above(x, W, bias, thresholds)
    if ours is not None:
        sizes = rounding(*problem)
        for own, same, near in zip(latents(ours), latents(expected), sizes, strict=True):
            for i in own.keys() ^ same.keys():
                assert abs({**own, **same}[i] - thresholds[i]) <= near[i]


@pytest.mark.parametrize("kind", KINDS)
def test_most_of_the_product_is_not_computed(kind):
    torch.manual_seed(0)
    x, W, bias = rows(kind, 64, 256), torch.randn(5000, 256), torch.zeros(5000)
    ours = [cpu.largest(x, W, bias, 20), cpu.largest_of_all(x, W, bias, 20 * 64)]
    assert all(found is not None and found.n_scored < 64 * 20 * 4 for found in ours)
    assert all(found.n_unsettled == 0 for found in ours)


def test_where_nothing_tells_latents_apart_the_product_is_left_to_others():
    x, W = torch.randn(8, D), torch.randn(1, D).expand(3000, D).contiguous()
    assert cpu.largest(x, W, torch.zeros(3000), 5) is None
    assert cpu.above(x.abs(), W.abs(), torch.zeros(3000), torch.zeros(3000)) is None


def test_tokens_that_cannot_be_settled_are_computed_in_full():
    torch.manual_seed(0)
    x, W, bias = torch.randn(256, D), torch.randn(5000, D), torch.ones(5000)
    x[5], x[40] = 0, 0  # all that is left of these is the bias
    found = cpu.largest(x, W, bias, 3)
    assert found.n_unsettled == 2
    assert found.indices[5].tolist() == found.indices[40].tolist() == [0, 1, 2]
    check_same(found, naive.largest(x, W, bias, 3), (x, W, bias), least_values(found))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_shows(bad):
    torch.manual_seed(0)
    x, W, bias = torch.randn(64, D), torch.randn(3000, D), torch.zeros(3000)
    x[7, 2] = bad
    found = cpu.largest(x, W, bias, 5) or naive.largest(x, W, bias, 5)
    assert not found.values[7].isfinite().all()
    assert found.values[:7].isfinite().all() and found.values[8:].isfinite().all()


def test_nothing_depends_on_the_number_of_threads(on_1_to_3_threads):
    torch.manual_seed(0)
    x, W, bias = torch.randn(130, D), torch.randn(2500, D), torch.randn(2500)
    on_1_to_3_threads(lambda: cpu.largest(x, W, bias, 12)[:2])
    on_1_to_3_threads(lambda: cpu.largest_of_all(x, W, bias, 1200)[:2])
    on_1_to_3_threads(lambda: cpu.above(x, W, bias, torch.full((2500,), 20.0))[:2])


def test_the_matrix_of_all_pre_activations_is_never_made():
    x, W, bias = torch.randn(64, D), torch.randn(9000, D), torch.zeros(9000)
    with NothingLarge(W.numel()):
        cpu.largest(x, W, bias, 4)
        cpu.largest_of_all(x, W, bias, 4 * 64)
        cpu.above(x, W, bias, torch.full((9000,), 25.0))


@pytest.mark.parametrize("kind", KINDS)
def test_the_rounding_error_is_as_large_as_it_is_said_to_be(kind):
    """One standard deviation for any data, and never beyond six."""
    torch.manual_seed(0)
    x, W = rows(kind, 200, 300).numpy().astype(np.float32), rows("two values", 300, 300).numpy()
    u, v = dithers(300)
    ones = np.ones(300, np.float32)
    tokens, encoders = room_for(200, 300), room_for(300, 300)
    round_rows(x, ones, u, v, tokens)
    round_rows(W.astype(np.float32), ones, v, u, encoders)
    products = tokens.q.astype(float) @ encoders.q.T.astype(float) + (u * v).sum()
    products -= tokens.offset[:, None] + encoders.offset
    errors = tokens.scale[:, None] * encoders.scale * products - x.astype(float) @ W.T
    spread = (
        tokens.scale[:, None] ** 2 * encoders.square + encoders.scale**2 * tokens.square[:, None]
    )
    deviations = errors[spread > 0] / np.sqrt(spread[spread > 0] / 12)
    assert abs(deviations).max() < 6
    assert 0.8 < deviations.std() < 1.2
