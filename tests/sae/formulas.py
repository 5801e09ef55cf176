"""Plain formulas of the architectures, and whether a loaded SAE computes the same."""

import torch

from temporal_sae.sae import load_sae

D, F, K = 6, 32, 4


def weights():
    """Every tensor of every architecture, in our orientation."""
    sizes = {
        **{"W_enc": (D, F), "W_dec": (F, D), "b_enc": (F,), "b_dec": (D,)},
        **{"b_gate": (F,), "b_mag": (F,), "r_mag": (F,)},
    }
    tensors = {name: torch.randn(size) for name, size in sizes.items()}
    return {**tensors, "threshold": torch.rand(F)}


def topk(z, k=K):
    values, places = z.relu().topk(k, dim=-1)
    return torch.zeros_like(z).scatter(1, places, values)


def relu(z):
    return z.relu()


def jump(threshold):
    return lambda z: z * (z > threshold)


def alike(folder, cls, x, acts, x_hat, tolerance=1e-5):
    """Load the folder and compare its latents and its reconstruction."""
    sae = load_sae(folder)
    assert type(sae) is cls
    assert all(p.dtype == torch.float32 for p in sae.parameters())
    assert torch.allclose(sae.encode_dense(x), acts, atol=tolerance)
    assert torch.allclose(sae(x), x_hat, atol=tolerance)
    assert torch.allclose(sae.decode(sae.encode(x)), x_hat, atol=tolerance)
    return sae


def formula(architecture, w, x, centers=True):
    """Latents and reconstruction of what SAELens calls `architecture`."""
    product = (x - centers * w["b_dec"]) @ w["W_enc"]
    if architecture == "gated":
        acts = (product * w["r_mag"].exp() + w["b_mag"]).relu() * (product + w["b_gate"] > 0)
    else:
        acts = {"topk": topk, "standard": relu, "jumprelu": jump(w["threshold"])}[architecture](
            product + w["b_enc"]
        )
    return acts, acts @ w["W_dec"] + w["b_dec"]
