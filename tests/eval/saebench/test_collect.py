"""SAEBench's records become sections with the names and keys of the published results."""

import pytest

from temporal_sae.eval.saebench import collect
from temporal_sae.metrics import find_objective

CORE = {
    "eval_type_id": "core",
    "eval_config": {"batch_size_prompts": 8, "context_size": 64, "verbose": False},
    "eval_result_metrics": {
        "reconstruction_quality": {
            "explained_variance": 0.9,
            "explained_variance_legacy": 0.7,
            "mse": 3.0,
            "cossim": 0.8,
        },
        "sparsity": {"l0": 16.0, "l1": 30.0},
    },
    "eval_result_unstructured": {
        "explained_variance_textbook": 0.75,
        "mse_per_element": 0.01,
        "tokens": 100,
    },
    "sae_lens_release_id": "m_layer_2_sae",
    "sae_lens_id": "custom_sae",
}
ABSORPTION = {
    "eval_result_metrics": {
        "mean": {"mean_full_absorption_score": 0.2, "mean_absorption_fraction_score": 0.3}
    },
    "eval_result_details": [
        {"first_letter": "a", "full_absorption_rate": 0.5, "num_full_absorption": 2}
    ],
}
PAIRS = [
    {"dataset_name": "bios", "scr_metric_threshold_2": 0.1},
    {"dataset_name": "books", "scr_metric_threshold_2": None},
]
SCR = {
    "eval_type_id": "scr",
    "eval_result_metrics": {"scr_metrics": {"scr_metric_threshold_2": 0.1}},
    "eval_result_details": PAIRS,
    "eval_result_unstructured": {"tied_pairs": ["books"]},
}
TPP = {
    "eval_type_id": "tpp",
    "eval_result_metrics": {"tpp_metrics": {"tpp_threshold_2_total_metric": 0.4}},
}


def entry(section, metric):
    return next(e for e in section["comparability"] if e["metric"] == metric)


def test_core_has_both_variances_and_says_which_compares():
    section = collect.sections({"core": CORE})["core evaluation results"]
    assert section["unique_id"] == "m_layer_2_sae_custom_sae"
    assert (section["sae_set"], section["sae_id"]) == ("m_layer_2_sae", "custom_sae")
    assert section["eval_cfg"]["verbose"] is False
    quality = section["metrics"]["reconstruction_quality"]
    assert quality["explained_variance"] == 0.75
    assert quality["explained_variance_saebench"] == 0.9
    assert quality["explained_variance_legacy"] == 0.7
    assert (quality["mse"], quality["mse_per_element"]) == (3.0, 0.01)
    assert not entry(section, "explained_variance")["compares"]
    assert entry(section, "explained_variance_legacy")["compares"]
    assert CORE["eval_result_metrics"]["reconstruction_quality"]["explained_variance"] == 0.9


@pytest.mark.parametrize(("windows", "compares"), [(16, True), (8, False)])
def test_mse_compares_at_the_published_batch_alone(windows, compares):
    config = {"batch_size_prompts": windows, "context_size": 128}
    section = collect.core_section({**CORE, "eval_config": config})
    assert entry(section, "mse")["compares"] is compares


def test_scr_alone_and_with_tpp():
    assert set(collect.sections({"scr": SCR})) == {"scr evaluations results"}
    assert set(collect.sections({"tpp": TPP})) == {"tpp evaluations results"}
    both = collect.sections({"scr": SCR, "tpp": TPP})
    assert set(both) == {"scr and tpp evaluations results", "tpp evaluations results"}
    section = both["scr and tpp evaluations results"]
    assert section["eval_type_id"] == "scr"
    assert set(section["eval_result_metrics"]) == {"scr_metrics", "tpp_metrics"}
    assert section["eval_result_details"] == PAIRS
    assert set(SCR["eval_result_metrics"]) == {"scr_metrics"}


def test_ties_are_named():
    section = collect.sections({"scr": SCR})["scr evaluations results"]
    assert entry(section, "scr_metrics")["why"].endswith("directions tie: books")
    assert not entry(section, "scr_metrics")["compares"]


def test_absorption_has_todays_and_januarys_names_and_is_better_when_lower():
    section = collect.sections({"absorption": ABSORPTION})["absorption evaluation results"]
    mean = section["eval_result_metrics"]["mean"]
    assert mean["mean_absorption_score"] == mean["mean_full_absorption_score"] == 0.2
    detail = section["eval_result_details"][0]
    assert (detail["absorption_rate"], detail["num_absorption"]) == (0.5, 2)
    assert (detail["full_absorption_rate"], detail["num_full_absorption"]) == (0.5, 2)
    for metric in ("mean_absorption_score", "mean_absorption_fraction_score"):
        assert entry(section, metric)["better"] == "lower"
        assert not entry(section, metric)["compares"]


def test_the_objective_is_found_behind_the_notes_on_comparability():
    results = {"training results for layer 2": {"final_info": {"explained_variance": 0.1}}}
    results |= collect.sections({"core": CORE, "absorption": ABSORPTION, "scr": SCR, "tpp": TPP})
    assert find_objective("explained_variance", results) == 0.75
    assert find_objective("mean_absorption_score", results) == 0.2
    assert find_objective("tpp_threshold_2_total_metric", results) == 0.4
    names = [metric.name for metric in collect.METRICS]
    assert len(set(names)) == len(names)
