"""notes.md and the printed table."""

import json

import pytest
from rich.console import Console

from temporal_sae.report import build_report, print_summary
from temporal_sae.report.build import number
from temporal_sae.report.comparison import comparison, reference_results

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


def test_notes_tell_the_story(folder):
    notes = build_report(folder).read_text()
    for part in (
        "4,096 latents (AutoEncoderTopK, k 8) on tiny",
        "| CE score | 0.988 | 0.714 | 0.992 | 0.984 |",
        "| dead latents | 12.5% | – | – | – |",
        "| L0 | – | 48.9 | 320.0 | 160.0 |",
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
    notes = build_report(folder).read_text()
    assert "The tracker was off." in notes
    assert "| CE score | – | 0.714 |" in notes


def test_the_printed_table_fits_a_terminal(folder, capsys):
    print_summary(folder, Console(width=80))
    lines = capsys.readouterr().out.splitlines()
    assert any("CE score" in line and "0.988" in line for line in lines)
    assert max(len(line) for line in lines if "│" in line) <= 80
    assert f"written to {folder}" in lines[-1]


def test_published_explained_variance_is_the_legacy_one():
    header, rows = comparison(RESULTS)
    column = header.index("baseline topk")
    values = {row[0]: row[column] for row in rows}
    assert values["explained variance"] == "–"
    assert values["the same, legacy"] == "0.777"
    assert set(reference_results()) == {"baseline_standard", "baseline_topk", "temporal_run_1"}


def test_numbers():
    assert [number(v) for v in (None, 5863.0, 0.73436, 12.0)] == [
        "not reached",
        "5,863",
        "0.734",
        "12",
    ]


def test_tasks_and_saebench_appear_once_they_are_done(folder):
    text = build_report(folder).read_text()
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
    text = build_report(folder).read_text()
    assert "| `absorption_full` | 0.125 | 0.100 to 0.150 |" in text
    assert "| `absorption_letters` | 20 | – |" in text
    assert "| `tpp_total_threshold_20` | 0.000 | – |" in text
    assert "| unlearning | 0.250 | 0.028 | 0.002 | 0.022 |" in text
    assert "| SCR, 20 latents | 0.375 | " in text
