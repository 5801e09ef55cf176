"""The options of each evaluation: SAEBench's names, and the values of the published baselines."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from temporal_sae.errors import (
    InvalidOption,
    check_bool,
    check_choice,
    check_int,
    check_number,
    check_words,
)

BIOS_AND_REVIEWS = ["LabHC/bias_in_bios_class_set1", "canrager/amazon_reviews_mcauley_1and5"]

_SCR_AND_TPP: dict[str, Any] = {
    "dataset_names": BIOS_AND_REVIEWS,
    "train_set_size": 4000,
    "test_set_size": 1000,
    "context_length": 128,
    "probe_train_batch_size": 16,
    "probe_test_batch_size": 500,
    "probe_epochs": 20,
    "early_stopping_patience": 20,
    "probe_lr": 1e-3,
    "probe_l1_penalty": 1e-3,
    "sae_batch_size": 125,
    "n_values": [2, 5, 10, 20, 50, 100, 500],
    "lower_vram_usage": False,
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "core": {
        "batch_size_prompts": 16,
        "n_eval_reconstruction_batches": 200,
        "n_eval_sparsity_variance_batches": 2000,
        "dataset": "Skylion007/openwebtext",
        "context_size": 128,
        "exclude_special_tokens_from_reconstruction": True,
    },
    "sparse_probing": {
        "dataset_names": [
            "LabHC/bias_in_bios_class_set1",
            "LabHC/bias_in_bios_class_set2",
            "LabHC/bias_in_bios_class_set3",
            "canrager/amazon_reviews_mcauley_1and5",
            "canrager/amazon_reviews_mcauley_1and5_sentiment",
            "codeparrot/github-code",
            "fancyzhx/ag_news",
            "Helsinki-NLP/europarl",
        ],
        "probe_train_set_size": 4000,
        "probe_test_set_size": 1000,
        "context_length": 128,
        "sae_batch_size": 125,
        "k_values": [1, 2, 5, 10, 20, 50],
        "lower_vram_usage": False,
    },
    "scr": {
        **_SCR_AND_TPP,
        "column1_vals_lookup": {
            "LabHC/bias_in_bios_class_set1": [
                ["professor", "nurse"],
                ["architect", "journalist"],
                ["surgeon", "psychologist"],
                ["attorney", "teacher"],
            ],
            "canrager/amazon_reviews_mcauley_1and5": [
                ["Books", "CDs_and_Vinyl"],
                ["Software", "Electronics"],
                ["Pet_Supplies", "Office_Products"],
                ["Industrial_and_Scientific", "Toys_and_Games"],
            ],
        },
    },
    "tpp": _SCR_AND_TPP,
    "absorption": {
        "f1_jump_threshold": 0.03,
        "max_k_value": 10,
        "prompt_template": "{word} has the first letter:",
        "prompt_token_pos": -6,
        "k_sparse_probe_l1_decay": 0.01,
        "k_sparse_probe_batch_size": 4096,
        "k_sparse_probe_num_epochs": 50,
        "min_GT_probe_f1": 0.6,
        "min_feats_for_eval": 20,
        "eval_k_sparse_probe_batch_size": 24,
        "precalc_k_sparse_probe_sae_acts": False,
    },
    "unlearning": {
        "model_name": None,
        "corpus": None,
        "question_ids": None,
        "dataset_size": 1024,
        "seq_len": 1024,
        "retain_thresholds": [0.001, 0.01],
        "n_features_list": [10, 20],
        "multipliers": [25, 50, 100, 200],
    },
    "autointerp": {
        "base_url": None,
        "api_key_file": None,
        "judge": "gpt-4o-mini",
        "temperature": None,
        "n_latents": 1000,
        "dead_latent_threshold": 15,
        "dataset_name": "monology/pile-uncopyrighted",
        "total_tokens": 2_000_000,
        "llm_context_size": 128,
    },
    "ravel": {
        "entity_attribute_selection": {
            "city": ["Country", "Continent", "Language"],
            "nobel_prize_winner": ["Country of Birth", "Field", "Gender"],
        },
        "top_n_entities": 500,
        "full_dataset_downsample": None,
        "num_pairs_per_attribute": 5000,
        "num_epochs": 2,
        "learning_rate": 0.001,
        "n_generated_tokens": 6,
    },
    "sae_probes": {
        "dataset_names": None,
        "reg_type": "l1",
        "ks": [1, 2, 5],
        "binarize": False,
        "include_llm_baseline": True,
    },
}

# SAEBench computes other values too, and then its record has no place for them.
RECORDED = {
    "k_values": (1, 2, 5, 10, 20, 50, 100),
    "n_values": (2, 5, 10, 20, 50, 100, 500),
}
MAY_BE_NEGATIVE = ("prompt_token_pos",)
# Those that are null by default are texts, but for these.
COUNT_OR_NULL = ("full_dataset_downsample",)
NUMBER_OR_NULL = ("temperature",)
TEXTS_OR_NULL = ("dataset_names",)
# What an SAE is judged by, once the activations and the probes on them are there.
OF_THE_SAE_ALONE = (
    "n_values",
    "sae_batch_size",
    "lower_vram_usage",
    "max_k_value",
    "f1_jump_threshold",
    "k_sparse_probe_l1_decay",
    "k_sparse_probe_batch_size",
    "k_sparse_probe_num_epochs",
    "min_GT_probe_f1",
    "min_feats_for_eval",
    "eval_k_sparse_probe_batch_size",
    "precalc_k_sparse_probe_sae_acts",
)


def completed(evaluation: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options of one evaluation, those that are not given at their defaults.

    Raises:
        InvalidOption: a key is unknown, or a value is not of the kind that its default is.
    """
    defaults = DEFAULTS[evaluation]
    if given is not None and not isinstance(given, Mapping):
        raise InvalidOption(evaluation, given, f"options such as {', '.join(defaults)}")
    chosen = dict(given or {})
    if unknown := sorted(chosen.keys() - defaults.keys()):
        allowed = f"left out, as the options are {', '.join(defaults)}"
        raise InvalidOption(f"{evaluation}.{unknown[0]}", chosen[unknown[0]], allowed)
    options = copy.deepcopy(defaults) | chosen
    checked = {key: _checked(f"{evaluation}.{key}", options[key], defaults[key]) for key in options}
    if known_sets := defaults.get("dataset_names"):  # SAEBench has code for these alone
        for name in checked["dataset_names"]:
            check_choice(f"{evaluation}.dataset_names", name, known_sets)
    if "reg_type" in checked:
        check_choice(f"{evaluation}.reg_type", checked["reg_type"], ("l1", "l2"))
    return checked


def _checked(option: str, value: Any, like: Any) -> Any:
    """The value, if it is of the kind of `like`."""
    key = option.split(".")[-1]
    if like is None:
        checked = None if value is None else _checked(option, value, _like_of_null(key))
    elif key in RECORDED:
        checked = _recorded_sizes(option, value, RECORDED[key])
    elif isinstance(like, bool):
        checked = check_bool(option, value)
    elif isinstance(like, int):
        checked = check_int(option, value, -(2**31) if key in MAY_BE_NEGATIVE else 1)
    elif isinstance(like, float):
        checked = check_number(option, value)
    elif isinstance(like, list):
        checked = _checked_list(option, value, like[0])
    elif isinstance(like, Mapping):
        checked = _checked_lists(option, value)
    else:
        checked = check_words(option, value)
    return checked


def _like_of_null(key: str) -> Any:
    """A value of the kind that an option has when it is not null."""
    kinds = ((COUNT_OR_NULL, 1), (NUMBER_OR_NULL, 1.0), (TEXTS_OR_NULL, ["text"]))
    return next((like for keys, like in kinds if key in keys), "text")


def _checked_lists(option: str, value: Any) -> Mapping[str, Any]:
    """A list for each of some names."""
    lists = isinstance(value, Mapping) and all(isinstance(each, list) for each in value.values())
    if not lists or not value:
        raise InvalidOption(option, value, "a list for each name, {name: [a, b]}")
    return dict(value)


def _checked_list(option: str, value: Any, like: Any) -> list[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise InvalidOption(option, value, "a list that is not empty")
    return [_checked(option, item, like) for item in value]


def _recorded_sizes(option: str, value: Any, allowed: tuple[int, ...]) -> list[int]:
    """Numbers of latents that SAEBench's record has a place for."""
    given = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not given or any(isinstance(n, bool) or n not in allowed for n in given):
        raise InvalidOption(option, value, f"a list of some of {', '.join(map(str, allowed))}")
    return [int(n) for n in given]
