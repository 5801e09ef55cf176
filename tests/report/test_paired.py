"""Two groups of runs compared: `python -m temporal_sae.report compare`."""

import copy
import json
import math

import pytest

from temporal_sae.errors import RunError
from temporal_sae.metrics import better_when_higher
from temporal_sae.report.__main__ import main
from temporal_sae.report.paired import compare_runs
from temporal_sae.report.rule import IMPROVEMENT, TOO_FEW, UNCLEAR, WORSE, by_rule

CONFIG = {
    "model": {"name": "tiny", "hook_name": "blocks.3.hook_resid_post"},
    "data": {"held_out_fraction": 0.1},
}


@pytest.fixture
def run(tmp_path):
    """Writes a finished run and returns its folder."""

    def write(name, seed, scores, *, record=None, **sections):
        folder = tmp_path / name
        folder.mkdir()
        content = {"status": "finished", "seed": seed, "config": CONFIG, **(record or {})}
        results = {
            "training results for layer 3": {"final_info": {"l0": 32.0}},
            "core evaluation results": {
                "eval_cfg": {"seed": 0},
                "metrics": {"reconstruction_quality": scores, "token_stats": {}},
            },
            **sections,
        }
        (folder / "run.json").write_text(json.dumps(content))
        (folder / "results.json").write_text(json.dumps(results))
        return folder

    return write


@pytest.fixture
def groups(run):
    """Three seeds each; A has a clearly higher score, lower mse, and a noisy cossim."""
    values = {1: (0.90, 0.10, 0.5), 2: (0.80, 0.20, 0.6), 3: (0.85, 0.15, 0.9)}
    noise = {1: (0.000, 0.000, 0.1), 2: (0.002, 0.001, -0.1), 3: (-0.002, -0.001, 0.05)}
    a, b = [], []
    for seed, (ce, mse, cossim) in values.items():
        up, more, away = noise[seed]
        a.append(run(f"a{seed}", seed, {"ce_loss_score": ce, "mse": mse, "cossim": cossim}))
        scores = {
            "ce_loss_score": ce - 0.05 + up,
            "mse": mse + 0.02 + more,
            "cossim": cossim + away,
        }
        b.append(run(f"b{seed}", seed, scores))
    return a, b


def judged(comparison, primary=None):
    return {found.row.name: found for found in by_rule({"": comparison.rows}, primary)}


def test_pairs_by_seed_whatever_the_order(groups):
    a, b = groups
    rows = judged(compare_runs(a, list(reversed(b))))
    assert rows["ce_loss_score"].row.test.mean == pytest.approx(0.05)
    assert rows["ce_loss_score"].row.mean_a == pytest.approx(0.85)
    assert rows["ce_loss_score"].verdict == IMPROVEMENT
    assert rows["mse"].row.test.mean == pytest.approx(-0.02)
    assert rows["mse"].verdict == IMPROVEMENT
    assert rows["cossim"].verdict == UNCLEAR
    turned = judged(compare_runs(b, a))
    assert turned["mse"].verdict == turned["ce_loss_score"].verdict == WORSE


def test_the_table(groups, capsys):
    a, b = groups
    main(["compare", *map(str, a), "--against", *map(str, b)])
    out = capsys.readouterr().out
    line = next(x for x in out.splitlines() if "ce_loss_score" in x)
    for part in ("core", "0.85", "0.8", "+0.05", "…", "improvement"):
        assert part in line
    assert "no clear difference" in next(x for x in out.splitlines() if "cossim" in x)
    assert "Of 3 differences in metrics that are not primary 2 have p < 0.05" in out
    assert "where 0.2 would by chance if nothing differed; 2 by Holm's" in out
    assert "No primary metric was fixed before these runs" in out


def test_one_shared_seed_says_nothing_about_seeds(groups, capsys):
    a, b = groups
    comparison = compare_runs(a[:2], b[1:])
    assert comparison.seeds == [2]
    assert {found.verdict for found in judged(comparison).values()} == {TOO_FEW}
    assert comparison.notes == ["without a partner, left out: seed 1, 3"]
    main(["compare", str(a[1]), "--against", str(b[1])])
    out = capsys.readouterr().out
    assert "improvement" not in out
    assert "No metric has an interval" in out


def test_sections_of_all_kinds(run):
    tasks = {
        "scores": {
            "absorption_full": 0.2,
            "sparse_probing_kind_sae_top_1": 0.8,
            "sparse_probing_kind_llm_top_1": 0.9,
            "downstream_control_selectivity": 0.0,
        },
        "intervals": {"absorption_full": [0.1, 0.3]},
        "options": {task: {"seed": 0} for task in ("absorption", "sparse_probing", "downstream")},
    }
    scr = {
        "eval_config": {"n_values": [2]},
        "eval_result_metrics": {"scr_metrics": {"scr_metric_threshold_2": 0.3, "scr_dir1": -1.0}},
    }
    both = []
    for name in ("a", "b"):
        folder = run(name, 1, {"ce_loss_score": 0.9, "ce_loss_without_sae": 2.0},
                     **{"tasks results": tasks, "scr evaluations results": scr})  # fmt: skip
        both.append([folder])
    metrics = {row.metric for row in compare_runs(*both).rows}
    assert metrics == {
        "core: ce_loss_score",
        "tasks/absorption: absorption_full",
        "tasks/sparse_probing: sparse_probing_kind_sae_top_1",
        "scr: scr_metric_threshold_2",
    }


def test_what_was_measured_differently_is_left_out(run):
    scores = {"absorption_full": 0.1, "tpp_x": 0.1}
    other = {"scores": scores, "options": {"absorption": {"seed": 1}, "tpp": {}}}
    tasks = {"scores": scores, "options": {"absorption": {"seed": 0}, "tpp": {}}}
    scr = {"eval_config": {}, "eval_result_metrics": {"scr": {"scr_metric": 0.1}}}
    a = run("a", 1, {"mse": 1.0}, **{"tasks results": tasks, "scr evaluations results": scr})
    b = run("b", 1, {"mse": 1.0}, **{"tasks results": other})
    comparison = compare_runs([a], [b])
    assert [row.metric for row in comparison.rows] == ["core: mse", "tasks/tpp: tpp_x"]
    assert comparison.notes == [
        "tasks/absorption: left out, the runs were evaluated with different options",
        "scr: left out, only 1 of 2 runs have it",
    ]


def test_a_score_that_stands_in_two_sections_counts_once(run):
    tpp = {"eval_config": {}, "eval_result_metrics": {"tpp": {"tpp_threshold_2": 0.1}}}
    both = {f"{name} evaluations results": tpp for name in ("scr and tpp", "tpp")}
    a, b = run("a", 1, {"mse": 1.0}, **both), run("b", 1, {"mse": 2.0}, **both)
    metrics = [row.metric for row in compare_runs([a], [b]).rows]
    assert metrics == ["core: mse", "scr and tpp: tpp_threshold_2"]


def test_null_is_no_score(run):
    a, b = run("a", 1, {"mse": 1.0, "cossim": None}), run("b", 1, {"mse": 1.0, "cossim": 0.5})
    assert [row.metric for row in compare_runs([a], [b]).rows] == ["core: mse"]


def changed(**record):
    config = copy.deepcopy(CONFIG)
    config["model"].update(record)
    return {"config": config}


def of_a_store():
    """The record of a run on activations from files, which names no language model."""
    return {"config": {"activations": {"_target_": "Files"}}}


def in_a_world(seed, size=128):
    world = {"_target_": "Synthetic", "seed": seed, "world": {"n_features": size}}
    return {"config": {"activations": world}}


def test_every_seed_may_have_a_world_of_its_own_but_a_pair_has_one(run):
    def group(name, *records):
        return [
            run(f"{name}{seed}", seed, {"mse": float(seed)}, record=record)
            for seed, record in enumerate(records, start=1)
        ]

    a = group("a", in_a_world(1), in_a_world(2))
    assert compare_runs(a, group("b", in_a_world(1), in_a_world(2))).seeds == [1, 2]
    with pytest.raises(RunError, match="differ in data"):
        compare_runs(a, group("c", in_a_world(1), in_a_world(3)))
    with pytest.raises(RunError, match="differ in data"):
        compare_runs(
            group("d", in_a_world(1), in_a_world(2, 64)),
            group("e", in_a_world(1), in_a_world(2, 64)),
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda run: run("x", 1, {"mse": 1.0}, record=of_a_store()),
            "differ in model.name: tiny against null",
        ),
        (lambda run: run("x", 9, {"mse": 1.0}), "no seed is in both groups: 1 against 9"),
        (lambda run: run("x", 1, {"mse": 1.0}, record={"status": "stopped"}), "no finished run"),
        (lambda run: run("x", 1, {"mse": 1.0}).parent, "no finished run"),
        (lambda run: run("x", 1, {"other": 1.0}), "share no score"),
        (
            lambda run: run("x", 1, {"mse": 1.0}, record=changed(name="gpt2")),
            "differ in model.name: tiny against gpt2",
        ),
    ],
)
def test_refused_in_one_line(run, make, message, capsys):
    a, b = run("a", 1, {"mse": 1.0}), make(run)
    with pytest.raises(RunError, match=message):
        compare_runs([a], [b])
    with pytest.raises(SystemExit) as end:
        main(["compare", str(a), "--against", str(b)])
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.count("\n") == 1


def test_a_seed_twice_is_refused_and_a_folder_twice_is_not(run):
    a, again = run("a", 1, {"mse": 1.0}), run("again", 1, {"mse": 2.0})
    with pytest.raises(RunError, match="seed 1 twice in a group"):
        compare_runs([a, again], [a])
    assert len(compare_runs([a, a], [again]).rows) == 1


def test_a_record_that_is_no_json(run):
    a, b = run("a", 1, {"mse": 1.0}), run("b", 1, {"mse": 1.0})
    (b / "results.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        compare_runs([a], [b])


def test_which_side_is_better():
    better = {
        "ce_loss_score": True,
        "explained_variance_legacy": True,
        "frac_alive": True,
        "sae_top_5_test_accuracy": True,
        "scr_metric_threshold_10": True,
        "tpp_threshold_2_total_metric": True,
        "tpp_threshold_2_unintended_diff_only": False,
        "mean_absorption_fraction_score": False,
        "absorption_full": False,
        "absorption_shape_full": False,
        "absorption_split_latents": None,
        "ce_loss_with_sae": False,
        "kl_div_with_sae": False,
        "dead_share": False,
        "mse": False,
        "mse_per_element": False,
        "l0": None,
        "l2_ratio": None,
        "downstream_selectivity": True,
    }
    assert {name: better_when_higher(name) for name in better} == better


def test_no_interval_is_not_printed_as_a_number(run, capsys):
    a, b = run("a", 1, {"mse": 1.0}), run("b", 1, {"mse": 2.0})
    main(["compare", str(a), "--against", str(b)])
    assert "nan" not in capsys.readouterr().out
    assert math.isnan(compare_runs([a], [b]).rows[0].test.low)
