"""`graph.graphml`: latents, their relations and strongest pairs, for Gephi, networkx and others."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from xml.sax.saxutils import escape

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from temporal_sae.atlas.folder import GRAPH, PAIRS, Atlas
from temporal_sae.files import write_atomically

N_STRONGEST = 5  # pairs of each latent, by φ
ROWS_AT_ONCE = 2**20
NODES = {"n": "long", "density": "double", "community": "int", "top_token": "string"}
EDGES = {"relation": "string", "phi": "double", "n_ij": "long", "decoder_cosine": "double"}
TURNED = {"child": "parent", "absorbed": "absorber"}
NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
Row = Mapping[str, object]


def write_graph(atlas: Atlas) -> None:
    """Write the graph of an atlas into its folder."""
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">',
        *keys("node", NODES),
        *keys("edge", EDGES),
        '<graph edgedefault="directed">',
        *(f'<node id="{row["latent"]}">{data(row, NODES)}</node>' for row in nodes(atlas)),
        *(
            f'<edge source="{row["i"]}" target="{row["j"]}">{data(row, EDGES)}</edge>'
            for row in edges(atlas)
        ),
        "</graph>",
        "</graphml>\n",
    ]
    write_atomically(atlas.folder / GRAPH, "\n".join(lines))


def keys(of: str, attributes: Mapping[str, str]) -> Iterator[str]:
    """Yield the declarations of the attributes of nodes or edges."""
    for name, kind in attributes.items():
        yield f'<key id="{name}" for="{of}" attr.name="{name}" attr.type="{kind}"/>'


def data(row: Row, names: Iterable[str]) -> str:
    """Return the attributes of a node or an edge; one without a value is left out."""
    values = ((name, row[name]) for name in names)
    return "".join(f'<data key="{n}">{text(v)}</data>' for n, v in values if has_value(v))


def has_value(value: object) -> bool:
    """Return whether a value is one."""
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def text(value: object) -> str:
    r"""Return a value as XML, which cannot hold some characters: NUL becomes \u0000."""
    legal = NOT_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", str(value))
    return escape(legal, {"\r": "&#13;"})


def nodes(atlas: Atlas) -> Iterator[Row]:
    """Yield the latents."""
    names = ("latent", "n", "density", "community", "top_tokens")
    for row in atlas.latents.select(names).to_pylist():
        tokens = row.pop("top_tokens")
        yield row | {"top_token": tokens[0] if tokens else None}


def edges(atlas: Atlas) -> Iterator[Row]:
    """Yield the pairs, each from the parent or the absorber to the other, if it is one."""
    strongest = strongest_of(atlas.latents)
    size = len(atlas.latents)
    with pq.ParquetFile(atlas.folder / PAIRS) as file:
        for part in file.iter_batches(ROWS_AT_ONCE, columns=["i", "j", *EDGES]):
            if not len(part):
                continue
            pairs = part["i"].to_numpy().astype(np.int64) * size + part["j"].to_numpy()
            listed = part["relation"].is_valid().to_numpy(zero_copy_only=False)
            first, last = np.searchsorted(strongest, [pairs[0], pairs[-1] + 1])
            listed[np.searchsorted(pairs, strongest[first:last])] = True
            for row in part.filter(pa.array(listed)).to_pylist():
                yield turned(row)


def strongest_of(latents: pa.Table) -> np.ndarray:
    """Return i · d_sae + j of the strongest pairs of each latent, i < j, ascending."""
    found = [
        min(own, other) * len(latents) + max(own, other)
        for own, others in enumerate(latents["nearest_by_phi"].to_pylist())
        for other in others[:N_STRONGEST]
    ]
    return np.unique(np.array(found, np.int64))


def turned(row: dict[str, object]) -> Row:
    """Return a pair in its direction."""
    other = TURNED.get(str(row["relation"]))
    return row | {"i": row["j"], "j": row["i"], "relation": other} if other else row
