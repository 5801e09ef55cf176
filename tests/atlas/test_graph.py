"""The graph of an atlas, as networkx reads it."""

import networkx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from temporal_sae.atlas import Atlas
from temporal_sae.atlas.graph import write_graph

HOSTILE = ["</data><script>", "\"&'", "\x00\x1b", "\ud7ff\ufffe🙂", "\r\n\t ", "]]>", "\u202e"]
SHOWN = ["</data><script>", "\"&'", r"\u0000\u001b", "\ud7ff\\ufffe🙂", "\r\n\t ", "]]>", "\u202e"]
RELATIONS = ["child", None, "absorbed", "duplicate", None]


def written(folder, tokens=HOSTILE):
    """The graph of seven latents."""
    n = len(HOSTILE)
    columns = {
        "latent": range(n),
        "n": range(10, 10 + n),
        "density": [0.1] * n,
        "community": [-1] * n,
        "top_tokens": tokens and [[token, "x"] for token in tokens],
        "nearest_by_phi": [[3], [], [], [0], [], [], []],
    }
    if not tokens:
        columns["top_tokens"] = pa.nulls(n, pa.list_(pa.string()))
    pq.write_table(pa.table(columns), folder / "latents.parquet")
    pairs = {
        "i": pa.array([0, 0, 1, 2, 5], pa.int32()),
        "j": pa.array([1, 3, 2, 4, 6], pa.int32()),
        "relation": RELATIONS,
        "phi": [0.5, 0.25, -0.5, float("nan"), 0.9],
        "n_ij": [7, 8, 0, 9, 10],
        "decoder_cosine": pa.array([0.5, 0.25, 0.75, 0.0, 0.0], pa.float32()),
    }
    pq.write_table(pa.table(pairs), folder / "pairs.parquet")
    write_graph(Atlas(folder))
    return networkx.read_graphml(folder / "graph.graphml", node_type=int)


def test_relations_and_strongest_pairs_are_edges(tmp_path):
    graph = written(tmp_path)
    assert graph.is_directed()
    assert {(i, j): of.get("relation") for i, j, of in graph.edges(data=True)} == {
        (1, 0): "parent",
        (0, 3): None,
        (2, 1): "absorber",
        (2, 4): "duplicate",
    }
    assert graph.edges[1, 0] == {
        "relation": "parent",
        "phi": 0.5,
        "n_ij": 7,
        "decoder_cosine": 0.5,
    }
    assert "phi" not in graph.edges[2, 4]


def test_tokens_are_shown_as_they_are_where_xml_can(tmp_path):
    graph = written(tmp_path)
    assert [graph.nodes[n]["top_token"] for n in range(len(HOSTILE))] == SHOWN
    assert graph.nodes[2] == {"n": 12, "density": 0.1, "community": -1, "top_token": SHOWN[2]}


def test_latents_of_a_source_without_tokens(tmp_path):
    assert "top_token" not in written(tmp_path, tokens=None).nodes[0]


def test_without_pairs_there_are_no_edges(tmp_path):
    written(tmp_path)
    pairs = pq.read_table(tmp_path / "pairs.parquet")
    with pq.ParquetWriter(tmp_path / "pairs.parquet", pairs.schema) as writer:
        writer.write_table(pairs[:0])
    write_graph(Atlas(tmp_path))
    graph = networkx.read_graphml(tmp_path / "graph.graphml")
    assert (len(graph), graph.number_of_edges()) == (len(HOSTILE), 0)


@pytest.mark.parametrize("rows_at_once", [1, 2])
def test_pairs_are_read_in_parts(tmp_path, monkeypatch, rows_at_once):
    whole = written(tmp_path)
    monkeypatch.setattr("temporal_sae.atlas.graph.ROWS_AT_ONCE", rows_at_once)
    assert networkx.utils.graphs_equal(written(tmp_path), whole)
