"""Options, jobs and folders of artifacts: plain data, without sae_bench."""

import dataclasses

import pytest

from temporal_sae.errors import InvalidOption
from temporal_sae.eval.saebench.options import (
    CHOICES,
    DEFAULTS,
    EVALUATIONS,
    Job,
    artifacts_name,
    completed,
)

SCR = Job(
    evaluation="scr",
    sae_folder="/sae",
    architecture="topk",
    model_name="gemma-2-2b",
    hook_name="blocks.12.hook_resid_post",
    prepend_bos=True,
    device="cpu",
    llm_dtype="float32",
    llm_batch_size=32,
    seed=42,
    options=completed("scr", None),
    keep_artifacts=False,
)


def changed(**fields):
    return dataclasses.replace(SCR, **fields)


def test_the_names_of_a_job():
    assert (SCR.layer, SCR.sae_set) == (12, "gemma-2-2b_layer_12_sae")


@pytest.mark.parametrize(
    "other",
    [
        changed(evaluation="tpp"),
        changed(model_name="gemma-2-9b"),
        changed(hook_name="blocks.12.hook_resid_pre"),
        changed(llm_dtype="bfloat16"),
        changed(llm_batch_size=16),
        changed(seed=43),
        changed(device="cuda:1"),
        changed(options=completed("scr", {"train_set_size": 400})),
        changed(options=completed("scr", {"probe_epochs": 1})),
    ],
)
def test_artifacts_are_kept_apart_by_what_they_depend_on(other):
    assert artifacts_name(other, None) != artifacts_name(SCR, None)


def test_artifacts_are_shared_where_only_the_sae_differs():
    same = changed(
        sae_folder="/other",
        architecture="standard",
        keep_artifacts=True,
        options=completed("scr", {"n_values": [2], "sae_batch_size": 7}),
    )
    assert artifacts_name(same, None) == artifacts_name(SCR, None)
    assert artifacts_name(same, "/data") != artifacts_name(SCR, None)


def test_options_that_are_given_replace_the_defaults():
    options = completed("absorption", {"max_k_value": 3, "prompt_token_pos": -7})
    assert options == DEFAULTS["absorption"] | {"max_k_value": 3, "prompt_token_pos": -7}
    options["max_k_value"] = 99
    assert DEFAULTS["absorption"]["max_k_value"] == 10


@pytest.mark.parametrize(
    ("evaluation", "key", "value", "allowed"),
    [
        ("core", "batch_size", 3, "left out, as the options are batch_size_prompts"),
        ("core", "context_size", 0, "at least 1"),
        ("core", "dataset", "", "a text"),
        ("core", "exclude_special_tokens_from_reconstruction", "yes", "true or false"),
        ("scr", "probe_lr", -1.0, "a number"),
        ("scr", "dataset_names", [], "not empty"),
        ("tpp", "dataset_names", ["fancyzhx/ag_news"], "one of LabHC/bias_in_bios_class_set1, can"),
        ("scr", "n_values", [2, 3], "2, 5, 10, 20, 50, 100, 500"),
        ("tpp", "n_values", 2.5, "a list that is not empty"),
        ("sparse_probing", "k_values", [], "not empty"),
        ("scr", "column1_vals_lookup", {"bios": [["nurse", 3]]}, "a text"),
        ("ravel", "entity_attribute_selection", {"city": "Country"}, "not empty"),
        ("autointerp", "temperature", "hot", "a number"),
        ("autointerp", "temperature", -1, "a number"),
        ("sae_probes", "reg_type", "l3", "one of l1, l2"),
        ("sparse_probing", "k_values", [500], "1, 2, 5, 10, 20, 50, 100"),
    ],
)
def test_options_that_are_wrong(evaluation, key, value, allowed):
    with pytest.raises(InvalidOption, match=allowed) as caught:
        completed(evaluation, {key: value})
    assert caught.value.option == f"{evaluation}.{key}"


def test_every_default_is_allowed():
    for name in EVALUATIONS:
        assert completed(name, None) == DEFAULTS[name]
    assert set(DEFAULTS["scr"]["n_values"]) == set(CHOICES["n_values"])
