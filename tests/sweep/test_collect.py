"""sweep.csv and sweep.parquet: one row a job with everything that is known of it."""

import csv
import json

import pytest
from pyarrow import parquet

from temporal_sae.sweep.__main__ import main
from temporal_sae.sweep.collect import collect, flat, short, typed
from temporal_sae.sweep.plan import SweepFolder
from temporal_sae.sweep.status import read_sweep


@pytest.fixture
def sweep(tmp_path):
    """Three jobs: one finished, one that failed in an evaluation, one missing."""
    wanted = [["a.b=1", "sae=topk"], ["a.b=0.5", "sae=topk"], ["tracker=off", "seed=3"]]
    SweepFolder(tmp_path).plan("command", "basic", wanted, lambda n, overrides: f"{n}_a")
    for number, score in ((0, 0.25), (1, None)):
        folder = tmp_path / f"{number}_a"
        folder.mkdir()
        record = {
            "status": "failed" if number else "finished",
            "reason": "eval scr: it\nbroke",
            "config": {},
            "wall_seconds": 2.5,
            "peak_memory_bytes": {"host": 1000},
        }
        results = {
            "training results for layer 12": {"config": {"k": 4, "names": ["x"]}},
            "co-activation results": {"top_pairs_overlap_by_windows": {"3": 0.5}},
            "core evaluation results": {"metrics": {"sparsity": {"l0": score, "a key": True}}},
        }
        (folder / "run.json").write_text(json.dumps(record))
        (folder / "results.json").write_text(json.dumps(results))
    return tmp_path


def test_a_row_a_job(sweep):
    collect(sweep, read_sweep(sweep))
    with (sweep / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("number", "folder", "state", "reason", "a.b", "sae", "tracker", "seed"),
        *("wall_seconds", "peak_memory_bytes.host", "training.config.k"),
        *("co_activation.top_pairs_overlap_by_windows.3", "core.metrics.sparsity.l0"),
        "core.metrics.sparsity.a_key",
    ]
    assert list(rows[0].values()) == [
        *(
            "0",
            "0_a",
            "finished",
            "",
            "1",
            "topk",
            "",
            "",
            "2.5",
            "1000",
            "4",
            "0.5",
            "0.25",
            "true",
        )
    ]
    assert (rows[1]["state"], rows[1]["reason"]) == ("failed", "eval scr: it broke")
    assert rows[1]["core.metrics.sparsity.l0"] == ""
    assert list(rows[2].values()) == ["2", "2_a", "missing", *("", "", ""), "off", "3", *[""] * 6]


def test_the_same_with_types(sweep):
    collect(sweep, read_sweep(sweep))
    table = parquet.read_table(sweep / "sweep.parquet")
    assert table.column("number").to_pylist() == [0, 1, 2]
    assert table.column("a.b").to_pylist() == [1.0, 0.5, None]
    assert table.column("seed").to_pylist() == [None, None, 3]
    assert table.column("core.metrics.sparsity.a_key").to_pylist() == [True, True, None]
    types = {name: str(table.schema.field(name).type) for name in ("a.b", "seed", "sae", "number")}
    assert types == {"a.b": "double", "seed": "int64", "sae": "string", "number": "int64"}


def test_numbers_beside_words_become_words(tmp_path):
    wanted = [["sae.k=4"], ["sae.k=auto"], ["sae.k=true"]]
    SweepFolder(tmp_path).plan("command", "basic", wanted, lambda n, overrides: f"{n}_a")
    collect(tmp_path, read_sweep(tmp_path))
    column = parquet.read_table(tmp_path / "sweep.parquet").column("sae.k")
    assert column.to_pylist() == ["4", "auto", "True"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1_000", 1000),
        ("-2.5e-3", -0.0025),
        ("True", True),
        ("null", None),
        ("''", ""),
        ("'a b'", "a b"),
        ("topk", "topk"),
        ("[1,2]", "[1,2]"),
        ("a_1", "a_1"),
    ],
)
def test_what_an_override_spells(text, value):
    assert typed(text) == value
    assert type(typed(text)) is type(value)


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("training results for layer 12", "training"),
        ("co-activation results", "co_activation"),
        ("cost", "cost"),
        ("core evaluation results", "core"),
        ("scr and tpp evaluations results", "scr_and_tpp"),
        ("sparse probing evaluation results", "sparse_probing"),
        ("tasks results", "tasks"),
    ],
)
def test_sections_have_short_names(section, name):
    assert list(flat({short(section): {"x": 1}})) == [f"{name}.x"]


def test_whole_numbers_beyond_64_bits_and_escape_codes_are_words(tmp_path, capsys):
    long = str(2**63)
    wanted = [[f"seed={long}", "a=1"], ["seed=3", "a=\x1b[31mred"], ["seed=1.5", f"a={'9' * 5000}"]]
    SweepFolder(tmp_path).plan("command", "basic", wanted, lambda n, overrides: f"{n}_a")
    main_of_sweep([str(tmp_path)], capsys)
    table = parquet.read_table(tmp_path / "sweep.parquet")
    assert table.column("seed").to_pylist() == [long, "3", "1.5"]
    assert table.column("a").to_pylist()[1] == "\\x1b[31mred"
    assert "\x1b" not in (tmp_path / "sweep.csv").read_text()
    (tmp_path / "one").mkdir()
    SweepFolder(tmp_path / "one").plan("command", "basic", wanted[:1], lambda n, overrides: "a")
    main_of_sweep([str(tmp_path / "one")], capsys)
    column = parquet.read_table(tmp_path / "one" / "sweep.parquet").column("seed")
    assert column.to_pylist() == [long]


def main_of_sweep(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 4
    assert "\x1b" not in capsys.readouterr().out
