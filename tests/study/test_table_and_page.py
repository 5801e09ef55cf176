"""The committed table, and the page that comes from it."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from temporal_sae.errors import RunError
from temporal_sae.study.designs import DESIGNS, PREDICTIONS
from temporal_sae.study.page import INTRODUCTION, write_page
from temporal_sae.study.predictions import Difference, Level
from temporal_sae.study.run import fix
from temporal_sae.study.table import measured, read_table, write_table
from tests.study.designs import MADE_UP, run

DOCS = Path(__file__).parents[2] / "docs"


def made_up_rows():
    rows = []
    for setting in ("here", "there"):
        for seed in (1, 2, 3):
            rows.append(run("no penalty", None, seed, 0.9, 0.5 + seed / 100, setting=setting))
            for weight, cost in ((1, 0.85), (10, 0.75)):
                score = 0.6 + seed**2 / 1000
                rows.append(run("pairs", weight, seed, cost, score, setting=setting))
                rows.append(run("pairs + 1", weight, seed, cost + 0.2, 0.7, setting=setting))
    return rows


def test_a_table_is_the_same_bytes_in_whatever_order_its_runs_come(tmp_path):
    rows = made_up_rows()
    write_table(tmp_path / "a.csv", MADE_UP, rows)
    write_table(tmp_path / "b.csv", MADE_UP, rows[::-1])
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    found = read_table(tmp_path / "a.csv", MADE_UP)
    assert len(found) == len(rows)
    assert {(r.arm, r.seed, r.setting) for r in found} == {(r.arm, r.seed, r.setting) for r in rows}


def test_what_was_not_measured_is_empty_and_comes_back_as_nan(tmp_path):
    write_table(tmp_path / "a.csv", MADE_UP, [run("no penalty", None, 1, 0.9, math.nan)])
    assert (tmp_path / "a.csv").read_text().splitlines()[1] == "final,here,no penalty,,1,12.5,0.9,"
    (found,) = read_table(tmp_path / "a.csv", MADE_UP)
    assert math.isnan(found.weight)
    assert math.isnan(found.metrics["ground_truth.mcc"])


def test_a_metric_is_found_by_its_section_and_name():
    results = {
        "tasks results": {"scores": {"tpp_total_threshold_20": 0.25}},
        "ground truth results": {"metrics": {"joint_overlap_ap": 0.5, "mcc": None}},
        "training results for layer 3": {"final_info": {"l0": 5.0}},
    }
    assert measured("tasks.tpp_total_threshold_20", results) == 0.25  # of a family of metrics
    assert measured("ground_truth.joint_overlap_ap", results) == 0.5  # never compared
    assert math.isnan(measured("ground_truth.mcc", results))
    assert math.isnan(measured("core.joint_overlap_ap", results))


def test_a_table_of_another_design_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("stage,setting\n")
    with pytest.raises(RunError, match=r"a\.csv: has other columns than the study made_up"):
        read_table(tmp_path / "a.csv", MADE_UP)
    with pytest.raises(
        RunError, match=r"missing; python -m temporal_sae\.study run made_up writes"
    ):
        read_table(tmp_path / "b.csv", MADE_UP)


def test_the_page_shows_arms_contrasts_and_figures(tmp_path):
    data, page = tmp_path / "data", tmp_path / "page.md"
    fix(MADE_UP, data)
    write_table(data / "made_up.csv", MADE_UP, made_up_rows())
    write_page((MADE_UP,), data, "# Title\n", page, {})
    text = page.read_text()
    assert "| pairs | 0.800 ± 0.000 | 0.605 ± 0.004 |" in text
    assert "| pairs + 1* | 0.950 ± 0.000 | 0.700 ± 0.000 |" in text  # never as dear as the budget
    assert "| a floor: pairs + 1 against pairs | mcc | 0.700 | 0.605 | +0.095 [" in text
    assert MADE_UP.digest() in text
    for name in re.findall(r"\]\((data/\S+\.svg)\)", text):
        assert (tmp_path / name).read_text().startswith("<svg")
    assert text.count(".svg)") == 2
    drawn = (data / "made_up_here_mcc.svg").read_text()
    assert drawn.count(">loss.floor=1<") == 1  # its panel has the others, too
    assert drawn.count(">pairs<") == 1  # named once, and the same with a floor
    before = {path: path.read_bytes() for path in (page, *data.iterdir())}
    write_page((MADE_UP,), data, "# Title\n", page, {})
    assert before == {path: path.read_bytes() for path in (page, *data.iterdir())}


def test_the_answers_and_the_predictions_are_told_first(tmp_path):
    data, page = tmp_path / "data", tmp_path / "page.md"
    fix(MADE_UP, data)
    write_table(data / "made_up.csv", MADE_UP, made_up_rows())
    sides = ("pairs + 1", "pairs", ("ground_truth.mcc",))
    predictions = (
        Difference("a floor helps", ("here",), *sides, ("better",)),
        Difference("and does not", ("there", "elsewhere"), *sides, ("no difference shown",)),
        Level("pairs are below .6", ("here",), "pairs", "ground_truth.mcc", (0.0, 0.6)),
        Level("or above", ("here",), "pairs", "ground_truth.mcc", (0.6, 1.0)),
    )
    write_page((MADE_UP,), data, "# Title\n", page, {"made_up": predictions})
    text = page.read_text().partition("### ")[0]
    contrast = "a floor: pairs + 1 against pairs"
    assert f"| {contrast} | mcc better (+0.095) | mcc better (+0.095) |" in text
    found = [line for line in text.splitlines() if "hold" in line]
    assert found[0] == "| a floor helps | here | mcc | +0.095 [+0.085, +0.105], better | holds |"
    assert [line.split(" | ")[1] for line in found] == ["here", "there", "here", "here"]
    assert [line.endswith("| holds |") for line in found] == [True, False, False, True]
    assert "| pairs are below .6 | here | mcc | 0.605 | does not hold |" in text


def test_a_setting_that_is_only_tuned_is_judged_by_its_tuning_and_has_no_contrasts(tmp_path):
    design = replace(MADE_UP, only_tuned=("there",))
    assert [s.name for s in design.settings_of("final")] == ["here"]
    assert [s.name for s in design.settings_of("tuning")] == ["here", "there"]
    there = {"stage": "tuning", "setting": "there"}
    rows = [row for row in made_up_rows() if row.setting == "here"]
    rows += [run("no penalty", None, 9, 0.9, 0.5, **there)]
    rows += [run("pairs", weight, 9, 0.9 - weight / 50, 0.6, **there) for weight in (1, 10)]
    data, page = tmp_path / "data", tmp_path / "page.md"
    fix(design, data)
    write_table(data / "made_up.csv", design, rows)
    write_page((design,), data, "# Title\n", page, {})
    here, there = page.read_text().split("### made_up, there")
    assert "over 3 seeds" in here
    assert "a floor: pairs + 1" in here
    assert "over 1 seeds" in there
    assert "| pairs | 0.800 | 0.600 |" in there
    assert "a floor" not in there
    assert "Not run" not in here
    write_table(data / "made_up.csv", design, rows[:-3])
    write_page((design,), data, "# Title\n", page, {})
    assert "Not run to the end yet: there." in page.read_text()


def test_a_study_without_a_table_is_said_to_be_open(tmp_path):
    write_page((MADE_UP,), tmp_path / "data", "# Title\n", tmp_path / "page.md", {})
    assert "This study has not been run yet." in (tmp_path / "page.md").read_text()


def test_the_committed_page_comes_from_the_committed_tables(tmp_path):
    data = tmp_path / "study"
    data.mkdir()
    for path in (DOCS / "study").glob("*.[cj]s*"):  # tables and notes of their designs
        (data / path.name).write_bytes(path.read_bytes())
    page = tmp_path / "study.md"
    write_page(tuple(DESIGNS.values()), data, INTRODUCTION.read_text(), page, PREDICTIONS)
    assert (tmp_path / "study.md").read_text() == (DOCS / "study.md").read_text()
    for figure in data.glob("*.svg"):
        assert figure.read_bytes() == (DOCS / "study" / figure.name).read_bytes()
