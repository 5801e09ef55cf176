"""A small atlas with every column that docs/atlas.md names, beside the SAE that it is of."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from temporal_sae.sae import TopKSAE

D_IN, D_SAE, N_TOKENS, BINS = 8, 7, 1000, 40
DEAD = D_SAE - 1
CONTEXT = 9
TEXTS = ["a", " b", "<script>", "\0nul", "‮bidi", "🙂", '"quoted"', "\n", "é"]
FACTS = {
    "n_tokens": N_TOKENS,
    "n_windows": 1,
    "window_size": 1000,
    "n_documents": 3,
    "title": "Run of a Monday",
    "model_name": "EleutherAI/pythia-70m",
    "hook_name": "blocks.3.hook_resid_post",
    "d_in": D_IN,
    "d_sae": D_SAE,
}


def made_up(folder, facts=FACTS, **changed):
    """Write `sae` and `atlas` into a folder; columns of latents may be changed."""
    torch.manual_seed(0)
    sae = TopKSAE(D_IN, D_SAE, k=2)
    sae.save(folder / "sae", {"context_size": 128, "hook_name": "blocks.3.hook_resid_post"})
    atlas = folder / "atlas"
    atlas.mkdir()
    rng = np.random.default_rng(0)
    latents = latent_columns(rng, sae.W_dec.detach()) | changed
    columns = latents, example_columns(rng, latents), token_columns()
    for name, own in zip(("latents", "examples", "tokens"), columns, strict=True):
        table = pa.table(own).replace_schema_metadata({"temporal_sae": json.dumps(facts)})
        pq.write_table(table, atlas / f"{name}.parquet")
    return atlas


def latent_columns(rng, decoder):
    """Seven latents, the last of which never fires."""
    n = rng.integers(20, 300, D_SAE)
    n[DEAD] = 0
    histogram = [rng.multinomial(x, np.ones(BINS) / BINS) for x in n]
    maximum = rng.gamma(2.0, size=D_SAE).astype(np.float32)
    maximum[DEAD] = np.nan
    unit = torch.nn.functional.normalize(decoder)
    cosines = (unit @ unit.T).fill_diagonal_(-2)
    nearest = cosines.topk(3)
    partners = [[(i + 1) % (D_SAE - 1), (i + 2) % (D_SAE - 1)] for i in range(DEAD)] + [[]]
    ids = pa.list_(pa.int32())
    return {
        "latent": pa.array(range(D_SAE), pa.int32()),
        "n": pa.array(n),
        "density": n / N_TOKENS,
        "max_activation": maximum,
        "histogram": pa.array(histogram, pa.list_(pa.int64())),
        "nearest_by_cosine": pa.array(nearest.indices.tolist(), ids),
        "nearest_cosines": pa.array(nearest.values.tolist(), pa.list_(pa.float32())),
        "nearest_by_phi": pa.array(partners, ids),
        "nearest_phis": pa.array([rng.random(len(p)) / 9 for p in partners]),
        "top_logit_tokens": pa.array([TEXTS[:3]] * D_SAE),
        "top_logits": pa.array([[3.5, 2.25, 0.1]] * D_SAE, pa.list_(pa.float32())),
        "bottom_logit_tokens": pa.array([TEXTS[3:6]] * D_SAE),
        "bottom_logits": pa.array([[-3.0, -2.0, -1.0]] * D_SAE, pa.list_(pa.float32())),
        "logit_histogram": pa.array([[2] * BINS] * D_SAE, pa.list_(pa.int64())),
        "logit_range": pa.array([[-3.0, 5.0]] * D_SAE, pa.list_(pa.float32())),
    }


def example_columns(rng, latents):
    """Two examples of each group of every latent that fires."""
    rows = [(i, g, r) for i in range(DEAD) for g in range(7) for r in range(2)]
    latent, group, rank = np.array(rows).T
    activations = rng.random((len(rows), CONTEXT)).astype(np.float32)
    place = rng.integers(0, CONTEXT, len(rows))
    activations[group == 6, place[group == 6]] = 0
    return {
        "latent": pa.array(latent, pa.int32()),
        "group": pa.array(group, pa.int8()),
        "rank": pa.array(rank, pa.int16()),
        "token": pa.array(rng.integers(0, N_TOKENS, len(rows))),
        "document": pa.array(np.where(latent == 0, -1, latent), pa.int32()),
        "position": pa.array(np.where(latent == 0, -1, 5 * rank), pa.int32()),
        "activation": activations[range(len(rows)), place],
        "first": pa.array(rng.integers(0, N_TOKENS, len(rows))),
        "place": pa.array(place, pa.int16()),
        "token_ids": pa.array(rng.integers(0, 12, (len(rows), CONTEXT)).tolist()),
        "activations": pa.array(list(activations)),
    }


def token_columns():
    """Strings of some tokens; the others have none."""
    ids = range(len(TEXTS))
    return {"id": pa.array(ids, pa.int32()), "text": TEXTS, "n": pa.array([9] * len(TEXTS))}
