"""notes.md and the printed table."""

import copy
import io
import json
import os
import re

import pytest
from rich.console import Console

from temporal_sae.report import build_report, print_summary
from temporal_sae.report.__main__ import main
from temporal_sae.report.comparison import comparison, reference_results
from temporal_sae.report.tables import number

RESULTS = {
    "training results for layer 3": {
        "config": {
            "dict_class": "AutoEncoderTopK",
            "lr": 0.001,
            "steps": 7,
            "seed": 5,
            "activation_dim": 16,
            "dict_size": 4096,
            "k": 8,
            "lm_name": "tiny",
            "submodule_name": "blocks.3.hook_resid_post",
            "ortho_weight": 3.0,
        },
        "final_info": {"training_steps": 7},
    },
    "co-activation results": {
        "pair_stability": 0.75,
        "top_pairs_half_life_windows": None,
        "top_pairs_overlap_by_windows": {"10": 0.5},
    },
    "core evaluation results": {
        "metrics": {
            "model_performance_preservation": {"ce_loss_score": 0.987654},
            "misc_metrics": {"dead_share": 0.125},
        }
    },
    "cost": {
        "training_seconds": 100.0,
        "tracker_seconds": 20.0,
        "penalty_seconds": 5.0,
        "method_share_of_training_time": 0.25,
        "tracker_bytes": 3 * 2**20,
    },
}
RECORD = {
    "command": "python launch.py seed=5 hydra.run.dir=here",
    "device": "cpu (test)",
    "tokens_per_second": 1234.5,
    "peak_memory_bytes": {"host": 2**30},
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    (tmp_path / "run.json").write_text(json.dumps(RECORD))
    return tmp_path


def notes_of(folder):
    """The notes on a run, after its page says the same."""
    page = build_report(folder)
    assert page.name == "report.html"
    return page.with_name("notes.md").read_text()


def test_notes_tell_the_story(folder):
    notes = notes_of(folder)
    for part in (
        "4,096 latents (AutoEncoderTopK, k 8) on tiny",
        "| metric | this run |",
        "| CE score | 0.988 |",
        "| dead latents | 12.5% |",
        "| their mean stability 1 - s | 0.75 |",
        "has halved | not reached |",
        "10 windows apart | 0.5 |",
        "the tracker 20.0 s and the penalty with its gradient 5.0 s, together 25%",
        "held 3 MiB",
        RECORD["command"],
    ):
        assert part in notes


def test_a_run_without_tracker_and_evaluation(folder):
    bare = {key: RESULTS[key] for key in ("training results for layer 3", "cost")}
    (folder / "results.json").write_text(json.dumps(bare))
    notes = notes_of(folder)
    assert "The tracker was off." in notes
    assert "CE score" not in notes


def leave(folder, config=None, ce_loss_score=0.5, status="finished", **training):
    """A run's folder with some results."""
    folder.mkdir()
    results = copy.deepcopy(RESULTS)
    results["training results for layer 3"]["config"] |= training
    quality = results["core evaluation results"]["metrics"]["model_performance_preservation"]
    quality["ce_loss_score"] = ce_loss_score
    (folder / "results.json").write_text(json.dumps(results))
    record = {**RECORD, "status": status, "config": config or {"seed": 5}}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def shown(folder, width, **options):
    console = Console(width=width, file=io.StringIO())
    print_summary(folder, console, **options)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80])
def test_the_printed_table_fits_a_terminal(tmp_path, width):
    folder = leave(tmp_path / "mine", ce_loss_score=0.25)
    for n in range(5):
        leave(tmp_path / f"a run of a very long name {n}", ce_loss_score=0.5 + n / 10)
    lines = shown(folder, width)
    (header,) = (line for line in lines if "metric" in line)
    assert header.split() == ["metric", "this", "run", "A", "B", "C"]
    (score,) = (line for line in lines if "CE score" in line)
    assert score.split()[:3] == ["CE", "score", "0.250"]
    end = next(n for n, line in enumerate(lines) if line.startswith("A is"))
    assert max(map(len, lines[:end])) <= width
    assert f"written to {folder}" in lines[-1]


def test_the_baseline_comes_first_then_the_newest_of_the_same_model(tmp_path):
    config = {"seed": 5, "model": {"name": "tiny"}, "tracker": {"window_size": 5}}
    folder = leave(tmp_path / "mine", config)
    off = {**config, "tracker": {"window_size": None}}
    left = [
        leave(tmp_path / "no penalty", config, ce_loss_score=0.15, ortho_weight=0.0),
        leave(tmp_path / "baseline", off, ce_loss_score=0.1, ortho_weight=0.0),
        leave(tmp_path / "other seed", {**off, "seed": 6}, ce_loss_score=0.2, ortho_weight=0.0),
        leave(tmp_path / "other weight", config, ce_loss_score=0.3, ortho_weight=1.0),
        leave(tmp_path / "older", config, ce_loss_score=0.4),
        leave(tmp_path / "other model", config, lm_name="gpt2"),
        leave(tmp_path / "running", config, status="running"),
        leave(tmp_path / "damaged", config),
        leave(tmp_path / "of another kind", config),
    ]
    plain = json.loads((left[1] / "results.json").read_text())
    plain["cost"]["tracker_bytes"] = 0
    (left[1] / "results.json").write_text(json.dumps(plain))
    (left[-2] / "results.json").write_text("[1, 2")
    (left[-1] / "results.json").write_text('{"training results for layer 3": {"config": []}}')
    for age, path in enumerate(left):
        os.utime(path / "results.json", (10**9 - age, 10**9 - age))
    text = "\n".join(shown(folder, 80))
    assert re.search(r"CE score +0.500 +0.100 +0.150 +0.200", text)
    assert "A is baseline: the same without tracker and penalty" in text
    assert "B is no penalty: the same without penalty" in text
    assert "C is other seed" in text
    notes = notes_of(folder)
    assert "| CE score | 0.500 | 0.100 | 0.150 | 0.200 |" in notes
    assert "A is baseline: the same" in notes


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("model", ["tiny", "google/gemma-2-2b"])
def test_reference_runs_only_beside_their_model_or_when_asked(tmp_path, model, asked):
    folder = leave(tmp_path / "mine", lm_name=model)
    text = "\n".join(shown(folder, 120, reference=asked))
    is_there = asked or model != "tiny"
    assert ("baseline topk" in text) == is_there
    assert ("google/gemma-2-2b, layer 12" in text) == is_there
    assert "–" not in text  # not in every encoding


def test_the_table_again_from_the_command_line(tmp_path, capsys):
    folder = leave(tmp_path / "mine")
    main(["show", str(folder), "--reference"])
    assert "0.992" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["show", str(tmp_path)])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_published_explained_variance_is_the_legacy_one(tmp_path):
    quality = {"explained_variance": 0.9, "explained_variance_legacy": 0.8}
    core = {"metrics": {"reconstruction_quality": quality}}
    run = {**RESULTS, "core evaluation results": core}
    compared = comparison(tmp_path, run, reference=True)
    column = compared.header.index("baseline topk")
    values = {row[0]: row[column] for row in compared.rows}
    assert values["explained variance"] == "–"
    assert values["explained variance, legacy"] == "0.777"
    assert set(reference_results()) == {"baseline_standard", "baseline_topk", "temporal_run_1"}


def test_numbers():
    assert [number(v) for v in (None, 5863.0, 0.73436, 12.0)] == [
        "not reached",
        "5,863",
        "0.734",
        "12",
    ]


def test_tasks_and_saebench_appear_once_they_are_done(folder):
    text = notes_of(folder)
    assert "Tasks on labelled" not in text
    assert "unlearning" not in text
    section = {
        "options": {},
        "scores": {
            "absorption_full": 0.125,
            "absorption_letters": 20.0,
            "tpp_total_threshold_20": 0,
        },
        "intervals": {"absorption_full": [0.1, 0.15], "tpp_total_threshold_20": [None, None]},
    }
    unlearning = {"eval_result_metrics": {"unlearning": {"unlearning_score": 0.25}}}
    scr = {"eval_result_metrics": {"scr_metrics": {"scr_metric_threshold_20": 0.375}}}
    more = {
        "tasks results": section,
        "unlearning evaluation results": unlearning,
        "scr evaluations results": scr,
    }
    (folder / "results.json").write_text(json.dumps(RESULTS | more))
    text = notes_of(folder)
    assert "| `absorption_full` | 0.125 | 0.100 to 0.150 |" in text
    assert "| `absorption_letters` | 20 | – |" in text
    assert "| `tpp_total_threshold_20` | 0.000 | – |" in text
    assert "| unlearning | 0.250 |" in text
    assert "| SCR, 20 latents | 0.375 |" in text
