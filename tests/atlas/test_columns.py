"""Tables that another program, or another version, has written in the place of an atlas's."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from temporal_sae.atlas.__main__ import main
from temporal_sae.atlas.folder import EXAMPLES, FACTS, LATENTS, PAIRS, TOKENS
from tests.atlas.site.worlds import small_world


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    small_world(folder)
    return folder


@pytest.fixture
def atlas(whole, tmp_path):
    ignore = shutil.ignore_patterns("firings")
    return shutil.copytree(whole, tmp_path / "atlas", ignore=ignore)


def replace(path, name, column):
    table = pq.read_table(path)
    place = table.column_names.index(name)
    made = table.remove_column(place)
    if column is not None:
        made = table.set_column(place, name, column(table))
    pq.write_table(made, path)


def texts(table):
    return pa.array(["z"] * len(table))


def nothing(table):
    return pa.nulls(len(table), pa.int64())


@pytest.mark.parametrize(
    ("command", "file", "name", "column", "said"),
    [
        ("diff", LATENTS, "n", None, "has no column n;"),
        ("diff", LATENTS, "top_tokens", None, "has no column top_tokens;"),
        ("diff", LATENTS, "n", texts, "column n is of type string, must be int64"),
        ("diff", PAIRS, "n_ij", texts, "column n_ij is of type string, must be int64"),
        ("diff", PAIRS, "i", nothing, "column i lacks values"),
        ("diff", PAIRS, "i", lambda t: pa.array([40] * len(t)), "its tables do not belong tog"),
        ("export", LATENTS, "nearest_by_cosine", texts, "must be list<item: int32>"),
        ("export", LATENTS, "nearest_by_phi", lambda t: pa.array([[1]] * len(t)), "belong tog"),
        ("export", EXAMPLES, "document", nothing, "column document lacks values"),
        ("export", TOKENS, "id", None, "has no column id;"),
    ],
)
def test_another_column_is_one_line(atlas, whole, capsys, command, file, name, column, said):
    replace(atlas / file, name, column)
    assert said in told(command, atlas, whole, capsys)


@pytest.mark.parametrize("command", ["diff", "explain", "export"])
@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ([], "cannot be read (in its metadata: "),
        ({}, "it has no n_tokens"),
        ({"n_tokens": "x"}, 'n_tokens="x"'),
        ({"n_tokens": 1, "hook_name": 1}, "hook_name=1"),
        ([[]] * 2, "in its metadata"),
    ],
)
def test_other_facts_are_one_line(atlas, whole, capsys, command, facts, said):
    table = pq.read_table(atlas / LATENTS)
    pq.write_table(table.replace_schema_metadata({FACTS: json.dumps(facts)}), atlas / LATENTS)
    assert said in told(command, atlas, whole, capsys)


def told(command, atlas, whole, capsys):
    """Return what a command says of an atlas when it ends as wrong input."""
    (atlas / "one.jsonl").write_text('{"index": "3", "description": "x"}\n')
    words = {
        "diff": ["diff", str(atlas), str(whole), "--output", str(atlas / "out")],
        "explain": ["explain", str(atlas), str(atlas / "one.jsonl")],
        "export": ["export", "neuronpedia", str(atlas), "--no-vectors", "--layer", "1"],
    }
    names = ["--model-id", "m", "--tokens-in-prompt", "8"]
    with pytest.raises(SystemExit) as stop:
        main(words[command] + (names if command == "export" else []))
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert err.count("\n") == 1
    return err


def test_pages_of_somebody_else_are_not_replaced(tmp_path, capsys):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "mine.html").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path), f"--output={tmp_path}"])
    assert stop.value.code == 2
    assert "holds site but no atlas; choose another folder" in capsys.readouterr().err
    assert (tmp_path / "site" / "mine.html").read_text() == "mine"
