"""Atlases to draw pages of: a small one with every column there can be, and a large one."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from temporal_sae.activations import Rows
from temporal_sae.atlas import Atlas
from temporal_sae.atlas.build import Known, Options, write_tables
from temporal_sae.atlas.firings import Firings, FiringsWriter, remove_firings
from temporal_sae.atlas.folder import FACTS, LATENTS, OVERLAPS, PAIRS, TOKENS
from temporal_sae.atlas.pairs import Choice, Directions
from temporal_sae.atlas.statistics import Counts, phi
from temporal_sae.latents import Latents

WINDOW, N_LATENTS, N_TOKENS = 100, 40, 6000
SILENT, HOSTILE_ONE, PARENT, CHILD, APART = range(5)  # APART never fires with CHILD
HOSTILE = (
    "<script>alert(1)</script>",
    "</script>",
    "\"'`&amp;<b>",
    "\u202eevil\u202c",
    "👩\u200d🔬",
    "a\x00b",
    "\u2028\u2029",
    "\n   ",
    "  two  ",
    "שלום",
    "\ufeff\x07\x1b[31m",
    "]]>",
)
WORDS = [*HOSTILE, *(f" {word}" for word in ("the", "of", "a", "tree", "river", "Stone"))]
TEXT = [*WORDS, *(f" w{n}" for n in range(40))]


def small_world(folder, *, is_bare=False, n_tokens=N_TOKENS, window=WINDOW, least=2, seed=1):
    """An atlas in a folder and its firings.

    `is_bare`: of rows whose tokens nobody knows; `seed`: of the SAE.
    """
    rng = np.random.default_rng(3)
    ids = rng.integers(0, len(TEXT), n_tokens)
    fires = rng.random((n_tokens, N_LATENTS)) < rng.uniform(0.002, 0.1, N_LATENTS)
    fires[:, SILENT] = False
    fires[:, HOSTILE_ONE] = ids < len(HOSTILE)
    fires[:, PARENT] = np.isin(ids % 10, (2, 3)) & (rng.random(n_tokens) < 0.9)
    fires[:, CHILD] = fires[:, PARENT] & (rng.random(n_tokens) < 0.4)
    fires[:, APART] &= ~fires[:, CHILD]
    acts = (rng.gamma(2.0, size=fires.shape) * fires).astype(np.float32)
    documents = np.sort(rng.integers(0, 50, n_tokens))
    places = np.stack([ids, documents, np.arange(n_tokens) - np.searchsorted(documents, documents)])
    remove_firings(folder / "firings")
    writer = FiringsWriter(folder / "firings", N_LATENTS, {})
    known = None if is_bare else torch.from_numpy(places.T.copy()).int()
    rows = Rows(torch.zeros(n_tokens, 1), known)
    writer.add(rows, Latents.from_dense(torch.from_numpy(acts)))
    writer.note({})
    firings = Firings(folder / "firings", N_LATENTS, window)
    unit = torch.nn.functional.normalize(
        torch.randn(N_LATENTS, 8, generator=torch.manual_seed(seed))
    )
    text_of = None if is_bare else lambda names: [TEXT[n] for n in names]
    options = Options(n_tokens, window, Choice(least))
    known = Known(Directions(unit, None if is_bare else unit), text_of)
    write_tables(folder, firings, known, options)
    return Atlas(folder), firings


def with_everything(folder):
    """Add to the tables of a folder the columns that not every source has, and explanations."""
    rng, n = np.random.default_rng(4), N_LATENTS
    latents = pq.read_table(folder / LATENTS)

    def lists(make):
        return pa.array([make() for _ in range(n)])

    def some(size):
        return lambda: rng.integers(0, n, size).tolist()

    extra = {
        "top_logit_ids": lists(lambda: list(range(10))),
        "top_logits": lists(lambda: np.sort(rng.random(10))[::-1].tolist()),
        "top_logit_tokens": lists(lambda: TEXT[:10]),
        "bottom_logit_ids": lists(lambda: list(range(10))),
        "bottom_logits": lists(lambda: (-rng.random(10)).tolist()),
        "bottom_logit_tokens": lists(lambda: TEXT[10:20]),
        "logit_histogram": lists(lambda: rng.integers(0, 99, 40).tolist()),
        "logit_range": lists(lambda: [-1.5, 1.5]),
        "community": pa.array(rng.integers(-1, 4, n), pa.int32()),
        "absorbers": lists(some(2)),
        "absorbed": lists(some(1)),
        "snapshot_cosines": lists(lambda: np.sort(rng.random(5)).tolist()),
        "seed_latents": lists(some(2)),
        "seed_cosines": lists(lambda: rng.random(2).tolist()),
        "ablation_loss": pa.array(rng.random(n), pa.float32()),
        "ablation_kl": pa.array(rng.random(n), pa.float32()),
    }
    for name, column in extra.items():
        if name in latents.column_names:
            latents = latents.drop_columns([name])
        latents = latents.append_column(name, column)
    facts = json.loads(latents.schema.metadata[FACTS]) | {
        "title": "small <world>",
        "model_name": "tiny",
        "hook_name": "blocks.1.hook_resid_post",
        "architecture": "topk",
        "k": 8,
        "d_in": 8,
        "snapshots": [100, 200, 300, 400, 500],
        "seeds": ["seed1", "seed2"],
        "final_norm": "The final norm is left out.",
    }
    pq.write_table(latents.replace_schema_metadata({FACTS: json.dumps(facts)}), folder / LATENTS)
    pq.write_table(with_absorber(pq.read_table(folder / PAIRS), latents), folder / PAIRS)
    overlaps = {"i": [CHILD - 1, CHILD], "j": [CHILD, 9]}
    overlaps = {name: pa.array(column, pa.int32()) for name, column in overlaps.items()}
    cosines = pa.array(rng.random((2, 5)).tolist(), pa.list_(pa.float32()))
    pq.write_table(pa.table({**overlaps, "snapshot_cosines": cosines}), folder / OVERLAPS)
    lines = [
        {"latent": 1, "description": "hostile </script> text", "score": 0.75, "typeName": "t"},
        {"latent": 1, "description": "the better one", "score": 0.9, "explanationModelName": "m"},
        {"latent": 7, "description": "words of a zebra"},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "explanations.jsonl").write_text(text)
    return Atlas(folder)


def with_absorber(pairs, latents):
    """The table with a row for two latents that never fire together."""
    n_i, n_j = (latents["n"][latent].as_py() for latent in (CHILD, APART))
    row = dict.fromkeys(pairs.column_names, math.nan) | {
        **{"i": CHILD, "j": APART, "n_ij": 0, "n_i": n_i, "n_j": n_j, "documents_ij": 0},
        **{"phi": float(phi(Counts.of(0, n_i, n_j, N_TOKENS))), "relation": "absorber"},
        **{"expected_in_documents": 12.5, "z_in_documents": -5.5, "decoder_cosine": 0.45},
        **{"c_cos2": 0.0},
    }
    both = pa.concat_tables([pairs, pa.Table.from_pylist([row], pairs.schema)])
    return both.sort_by([("i", "ascending"), ("j", "ascending")])


def large_world(folder, n_latents=18432, n_tokens=20_000, k=32, n_ids=30_000):
    """Tables of many latents with made-up tokens, some of whose strings are long."""
    rng = np.random.default_rng(5)
    popular = rng.permutation(n_latents)
    ranks = (n_latents ** rng.random((n_tokens, k)) - 1).astype(np.int64)
    indices = torch.from_numpy(np.sort(popular[ranks], -1))
    is_new = torch.ones_like(indices, dtype=torch.bool)
    is_new[:, 1:] = indices[:, 1:] != indices[:, :-1]
    indices[~is_new] = -1
    values = torch.from_numpy(rng.gamma(2.0, size=(n_tokens, k)).astype(np.float32)) * is_new
    ids = (n_ids ** rng.random(n_tokens) - 1).astype(np.int64)
    documents = np.arange(n_tokens) // 500
    places = torch.from_numpy(np.stack([ids, documents, np.arange(n_tokens) % 500], 1)).int()
    writer = FiringsWriter(folder / "firings", n_latents, {})
    writer.add(Rows(torch.zeros(n_tokens, 1), places), Latents(values, indices))
    writer.note({})
    firings = Firings(folder / "firings", n_latents, 1000)
    unit = torch.nn.functional.normalize(torch.randn(n_latents, 16, generator=torch.manual_seed(1)))
    strings = [f" {'word' * (n % 3)}{n}" for n in range(n_ids)]
    options = Options(n_tokens, 1000, Choice(5))
    text_of = lambda names: [strings[n] for n in names]  # noqa: E731
    write_tables(folder, firings, Known(Directions(unit, unit), text_of), options)
    overload(folder, n_ids)
    return Atlas(folder), firings


def overload(folder, n_ids):
    """Give the overview all columns that it may have, and tokens of which few are the same."""
    rng, table = np.random.default_rng(6), pq.read_table(folder / LATENTS)
    n, place = len(table), table.column_names.index("top_token_ids")
    ids = pa.array(rng.integers(0, n_ids, (n, 10)).tolist(), pa.list_(pa.int32()))
    table = table.set_column(place, "top_token_ids", ids)
    cosines = pa.array(rng.random((n, 3)).tolist(), pa.list_(pa.float32()))
    extra = {"snapshot_cosines": cosines, "seed_cosines": cosines}
    extra["community"] = pa.array(rng.integers(-1, 900, n), pa.int32())
    kept = [name for name in table.column_names if name not in extra]
    table = table.select(kept)
    for name, column in extra.items():
        table = table.append_column(name, column)
    pq.write_table(table, folder / LATENTS)
    strings = [f" {'word' * (n % 3)}{n}" for n in range(n_ids)]
    tokens = {"id": pa.array(range(n_ids), pa.int32()), "text": strings, "n": [1] * n_ids}
    pq.write_table(pa.table(tokens), folder / TOKENS)
