"""We read what sparsify writes, and both compute the same."""

import pytest
import torch

from temporal_sae.errors import RunError
from temporal_sae.sae import TopKSAE, load_sae

sparsify = pytest.importorskip(
    "sparsify", reason="eai-sparsify is not installed (benchmarks/requirements-peers.txt)"
)


def coder(**options):
    sae = sparsify.SparseCoder(32, sparsify.SparseCoderConfig(num_latents=256, k=8, **options))
    for parameter in sae.parameters():
        parameter.data = 0.3 * torch.randn_like(parameter)
    return sae


@pytest.mark.parametrize("options", [{}, {"normalize_decoder": False}])
def test_both_encode_and_decode_alike(options, compare, tmp_path):
    sae = coder(**options)
    sae.save_to_disk(tmp_path)
    ours, x = load_sae(tmp_path), torch.randn(64, 32)
    assert type(ours) is TopKSAE
    values, places, _ = sae.encode(x)

    def encode(x):
        return torch.zeros(len(x), 256).scatter(1, places, values)

    compare(ours, encode, lambda acts: sae.decode(values, places), x)
    assert torch.allclose(ours(x), sae(x).sae_out, atol=1e-5)


def test_half_precision_is_read_as_float32(tmp_path):
    sae = coder().to(torch.bfloat16)
    sae.save_to_disk(tmp_path)
    exact, x = sae.float(), torch.randn(64, 32)
    assert torch.allclose(load_sae(tmp_path)(x), exact(x).sae_out, atol=1e-5)


def test_the_size_may_be_given_as_a_multiple(tmp_path):
    config = sparsify.SparseCoderConfig(expansion_factor=4, k=8)
    sparsify.SparseCoder(32, config).save_to_disk(tmp_path)
    assert load_sae(tmp_path).d_sae == 128


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transcode": True}, "transcode"),
        ({"skip_connection": True}, "skip_connection"),
        ({"multi_topk": True}, "multi_topk"),
        ({"activation": "groupmax"}, "groupmax"),
    ],
)
def test_what_is_no_topk_sae_is_refused(options, message, tmp_path):
    coder(**options).save_to_disk(tmp_path)
    with pytest.raises(RunError, match=message):
        load_sae(tmp_path)
