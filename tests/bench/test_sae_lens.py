"""SAELens reads our folders and computes the same (needs the `bench` extra)."""

import pytest
import torch

from temporal_sae.sae import StandardSAE, TopKSAE, load_sae

sae_lens = pytest.importorskip("sae_lens", reason="the bench extra is not installed")

METADATA = {"model_name": "tiny", "hook_name": "blocks.3.hook_resid_post", "prepend_bos": True}


@pytest.mark.parametrize("architecture", ["topk", "standard"])
def test_sae_lens_encodes_and_decodes_alike(architecture, tmp_path):
    ours = TopKSAE(32, 256, k=8) if architecture == "topk" else StandardSAE(32, 256)
    ours.b_enc.data.normal_(std=0.1)
    ours.b_dec.data.normal_()
    ours.W_enc.data += 0.1 * torch.randn_like(ours.W_enc)
    ours.save(tmp_path, METADATA)
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path))
    assert theirs.cfg.architecture() == architecture
    assert theirs.cfg.metadata.hook_name == METADATA["hook_name"]
    x = torch.randn(64, 32) * 3
    acts = theirs.encode(x)
    acts = acts.to_dense() if acts.is_sparse else acts
    assert torch.allclose(ours.encode_dense(x), acts, atol=1e-5)
    assert torch.allclose(ours(x), theirs.decode(acts), atol=1e-5)
    assert torch.allclose(ours.decode(ours.encode(x)), theirs(x), atol=1e-5)


@pytest.mark.parametrize("architecture", ["topk", "standard"])
def test_we_read_what_sae_lens_writes(architecture, tmp_path):
    cls = sae_lens.TopKSAE if architecture == "topk" else sae_lens.StandardSAE
    config_class = sae_lens.TopKSAEConfig if architecture == "topk" else sae_lens.StandardSAEConfig
    extra = {"k": 8} if architecture == "topk" else {}
    theirs = cls(config_class(d_in=32, d_sae=256, **extra))
    for parameter in theirs.parameters():
        parameter.data.normal_(std=0.3)
    theirs.save_model(tmp_path)
    ours = load_sae(tmp_path)
    x = torch.randn(64, 32)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)
