"""sweep.csv, which is to be read, and sweep_full.parquet, which has everything."""

import csv

import pytest
from pyarrow import parquet

from temporal_sae.report.sweep_facts import typed
from temporal_sae.report.sweep_table import collect, flat, short
from tests.report.sweeps import results_of, write_job


def csv_of(folder):
    with (folder / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def column(folder, name):
    return parquet.read_table(folder / "sweep_full.parquet").column(name).to_pylist()


@pytest.fixture
def sweep(tmp_path):
    """Three jobs: one finished, one that failed in an evaluation, one missing."""
    results = results_of(l0=4.0, ce_loss_score=0.5) | {
        "training results for layer 12": {"config": {"k": 4}, "final_info": {"final_loss": 2.0}},
        "co-activation results": {"top_pairs_overlap_by_windows": {"3": 0.5}, "a key": True},
    }
    took = {"wall_seconds": 2.5, "peak_memory_bytes": {"host": 1000}}
    collect(
        tmp_path,
        [
            write_job(tmp_path, 0, "a.b=1 sae=topk", results, **took, config={"objective": "l0"}),
            write_job(tmp_path, 1, "a.b=0.5 sae=topk", results_of(l0=None), "failed", "it broke"),
            write_job(tmp_path, 2, "tracker=off sae=topk seed=3", state="missing"),
        ],
    )
    return tmp_path


def test_the_table_has_what_differs_before_the_results_and_no_other_config(sweep):
    first, second, third = csv_of(sweep)
    assert list(first.items()) == [
        *{"number": "0", "folder": "0_job", "state": "finished", "objective": "4.0"}.items(),
        *{"a.b": "1", "tracker": "", "seed": ""}.items(),
        *{"core.ce_loss_score": "0.5", "core.l0": "4.0", "training.final_loss": "2.0"}.items(),
        *{"wall_seconds": "2.5", "peak_memory_bytes.host": "1000", "reason": ""}.items(),
    ]
    assert (second["state"], second["reason"], second["core.l0"]) == ("failed", "it broke", "")
    assert (third["tracker"], third["seed"], third["core.ce_loss_score"]) == ("off", "3", "")


def test_the_full_table_has_everything_with_types(sweep):
    table = parquet.read_table(sweep / "sweep_full.parquet")
    types = {
        **{"number": "int64", "objective": "double", "a.b": "double", "sae": "string"},
        **{"seed": "int64", "core.metrics.sparsity.l0": "double", "training.config.k": "int64"},
        **{"co_activation.top_pairs_overlap_by_windows.3": "double", "co_activation.a_key": "bool"},
    }
    assert {name: str(table.schema.field(name).type) for name in types} == types
    assert column(sweep, "a.b") == [1.0, 0.5, None]
    assert column(sweep, "seed") == [None, None, 3]
    assert column(sweep, "co_activation.a_key") == [True, None, None]
    assert column(sweep, "objective_name") == ["l0", "explained_variance", "explained_variance"]


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["4", "auto", "true"], ["4", "auto", "True"]),
        (["3", "1.5", str(2**63)], ["3", "1.5", str(2**63)]),
        ([str(2**63)], [str(2**63)]),
        (["9" * 5000], [float("inf")]),
        (["\x1b[31mred"], ["\\x1b[31mred"]),
    ],
)
def test_beside_words_and_beyond_64_bits_numbers_are_words(tmp_path, words, values):
    collect(tmp_path, [write_job(tmp_path, n, f"x={w}") for n, w in enumerate(words)])
    assert column(tmp_path, "x") == values
    assert "\x1b" not in (tmp_path / "sweep.csv").read_text()


def test_what_is_damaged_is_said_and_the_others_are_there(tmp_path, caplog):
    jobs = [write_job(tmp_path, n, f"seed={n}", results_of(l0=4.0)) for n in (1, 2)]
    (jobs[0].folder / "results.json").write_text("{")
    collect(tmp_path, jobs)
    assert [row["core.l0"] for row in csv_of(tmp_path)] == ["", "4.0"]
    assert "1_job/results.json" in caplog.text


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
