"""Encoding and decoding take any leading shape, with the numbers of the same rows in a matrix."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sae.test_folder import SAES, made

LEADING = [(), (1,), (5,), (2, 3), (3, 1, 2), (0,), (2, 0), (1, 1, 1)]


def assert_same(shaped, rows, leading):
    assert shaped.shape[:-1] == leading
    assert torch.equal(shaped.reshape(rows.shape), rows)


@pytest.mark.parametrize("cls", SAES)
@settings(max_examples=20, deadline=None)
@given(leading=st.sampled_from(LEADING) | st.lists(st.integers(0, 4), max_size=4).map(tuple))
def test_any_leading_shape(cls, leading):
    sae = made(cls)
    x = torch.randn(*leading, 6)
    rows = x.reshape(x.numel() // 6, 6)
    assert_same(sae(x), sae(rows), leading)
    assert_same(sae.encode_dense(x), sae.encode_dense(rows), leading)
    assert_same(sae.decode_dense(sae.encode_dense(x)), sae(rows), leading)
    latents, flat = sae.encode(x), sae.encode(rows)
    assert_same(latents.values, flat.values, leading)
    assert_same(latents.indices, flat.indices, leading)
    assert_same(latents.to_dense(sae.d_sae), flat.to_dense(sae.d_sae), leading)
    assert_same(latents.active_indices(), flat.active_indices(), leading)
    assert_same(latents.largest(2).indices, flat.largest(2).indices, leading)
    assert_same(sae.decode(latents), sae.decode(flat), leading)


@pytest.mark.parametrize("cls", SAES)
def test_gradients_reach_sequences(cls):
    sae = made(cls)
    x = torch.randn(2, 3, 6, requires_grad=True)
    sae.decode(sae.encode(x)).square().sum().backward()
    of_sequences = [x.grad.flatten(0, 1), sae.W_dec.grad, sae.W_enc.grad]
    x.grad, sae.W_dec.grad, sae.W_enc.grad = None, None, None
    sae.decode(sae.encode(x.flatten(0, 1))).square().sum().backward()
    for found, expected in zip(
        of_sequences, [x.grad.flatten(0, 1), sae.W_dec.grad, sae.W_enc.grad], strict=True
    ):
        assert torch.equal(found, expected)
