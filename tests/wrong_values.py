"""The values that each key of the config may have, and wrong ones made from that."""

from typing import NamedTuple

NAN, INF = float("nan"), float("inf")


class Range(NamedTuple):
    """Values that are refused."""

    wrong: tuple


def of(wrong, null):
    return Range((*wrong, *(() if null else (None,))))


def whole(low=1, high=None, null=False):
    """A whole number from `low` to `high`."""
    above = () if high is None else (high + 1,)
    return of(
        (low - 1, *above, low + 0.5, "many", "", NAN, INF, 2**63, True, [low], {"a": 1}), null
    )


def number(low=0.0, high=None, above=False, null=False):
    """A number in [low, high], or above `low`."""
    beyond = () if high is None else (high + 0.1,)
    return of(
        (low if above else low - 1, *beyond, "much", "", NAN, INF, True, [0.5], {"a": 1}), null
    )


def flag():
    """True or false."""
    return of(("no", "", 1, 0.5, NAN, [True], {"a": 1}), null=False)


def choice(null=False):
    """One of some words."""
    return of(("nonesuch", "", 3, NAN, True, ["nonesuch"], {"a": 1}), null)


def text(null=False, empty=False):
    """Any text."""
    return of((3, 0.5, NAN, True, ["a"], {"a": 1}, *(() if empty else ("",))), null)


def listed(*items, empty=False, null=False):
    """A list, in which some `items` may not be."""
    none = () if empty else ([],)
    return of((3, "word", "", NAN, True, {"a": 1}, *none, *([item] for item in items)), null)


NUMBERS = (0, -1, 1.5, "many", NAN, None, [1], True)
WORDS = (3, NAN, None, [1], True, "nonesuch")
BOOTSTRAP = {"n_resamples": whole(), "seed": whole(0)}
ROWS = {"train_rows": whole(), "test_rows": whole()}
CORE = {
    "lm_batch_size": whole(),
    "n_reconstruction_sequences": whole(),
    "n_sparsity_sequences": whole(),
    "seed": whole(0),
}
STREAM = {
    "buffer_tokens": whole(),
    "normalize": flag(),
    "outliers": choice(),
    "outlier_factor": number(1),
    "prefetch": of((0, -1, 1.5, "often", "", NAN, INF, 2**63, [2], {"a": 1}), null=False),
}
SCR_AND_TPP = {
    "dataset_names": listed(*WORDS),
    "n_values": listed(*NUMBERS),
    "lower_vram_usage": flag(),
    "probe_lr": number(),
    "probe_l1_penalty": number(),
    **dict.fromkeys(
        (
            "train_set_size",
            "test_set_size",
            "context_length",
            "probe_train_batch_size",
            "probe_test_batch_size",
            "probe_epochs",
            "early_stopping_patience",
            "sae_batch_size",
        ),
        whole(),
    ),
}

# By group, or by option where those of a group differ. The keys of what is nested are dotted.
RANGES = {
    "model": {
        "name": text(),
        "hook_name": text(),
        "dtype": choice(),
        "revision": text(null=True),
        "attn_implementation": choice(null=True),
        "device_map": choice(null=True),
        "quantization": choice(null=True),
        "local_files_only": flag(),
    },
    "data=hub": {
        "name": text(),
        "subset": text(null=True),
        "dataset_split": text(),
        "text_column": text(),
        "tokens_column": text(null=True),
        "messages_column": text(null=True),
        "streaming": flag(),
        "held_out_fraction": number(0, 1),
        "shuffle_buffer": whole(0),
        "patience": number(above=True),
        "skip_broken": whole(0),
        "changed": choice(),
    },
    "data=mixture": {
        "parts": listed(3, "word", None, {"path": "texts"}),
        "weights": listed(0, -1, "many", NAN, INF, None, True, 1.0, null=True),
        "changed": choice(),
    },
    "data=stdlib": {
        "held_out_fraction": number(0, 1),
        "max_document_chars": whole(null=True),
        "changed": choice(),
    },
    "data=text_files": {
        "path": text(),
        "pattern": text(),
        "exclude": listed(3, None, [1], empty=True),
        "held_out_fraction": number(0, 1),
        "max_document_chars": whole(null=True),
        "changed": choice(),
    },
    "activations=harvest": {
        "context_size": whole(2),
        "prepend_bos": flag(),
        "exclude": listed(3, None, [1], "nonesuch", empty=True),
        "lm_batch_size": whole(),
        **STREAM,
    },
    "activations=files": {
        "path": text(),
        "key": of((3, 0.5, NAN, True, ["a"], {"a": 1}, ""), null=True),
        "held_out_fraction": number(0, 1),
        "block_rows": whole(null=True),
        "changed": choice(),
        **STREAM,
    },
    "activations=store": {
        "path": text(),
        **dict.fromkeys(
            ("num_tokens", "lm_batch_size", "shard_rows", "mixing_rows"), whole(null=True)
        ),
        **dict.fromkeys(("held_out_tokens", "seed"), whole(0, null=True)),
        "context_size": whole(2, null=True),
        "prepend_bos": of(("no", "", 1, 0.5, NAN, [True], {"a": 1}), null=True),
        "exclude": listed(3, None, [1], "nonesuch", empty=True, null=True),
        "dtype": choice(null=True),
        **STREAM,
    },
    "activations=synthetic": {
        "seed": whole(0),
        "order": choice(),
        **STREAM,
        **{f"world.{key}": whole() for key in ("d_in", "n_features", "n_topics", "document_rows")},
        **{f"world.{key}": whole(0) for key in ("n_parents", "n_true_pairs", "n_spurious_pairs")},
        **{f"world.{key}": whole() for key in ("correlation_rank", "n_phases")},
        "world.active_phases": whole(1, 8),
        "world.phase_rows": whole(0),
        "world.orthogonal_steps": whole(0),
        "world.phase_gain": number(1, 2),
        "world.depth": whole(1, 32),
        "world.rank_by": choice(),
        "world.correlation": number(0, 0.99),
        **{f"world.{key}": number(0, 1e6) for key in ("zipf", "value_std", "noise")},
        **{f"world.{key}": number(0, 1) for key in ("child_rate", "pair_rate", "topical_share")},
        "world.n_children": whole(),
        "world.l0": number(above=True),
        "world.topic_gain": number(1),
    },
    "activations=synthsaebench": {
        "name": text(null=True),
        "n_features": whole(10880),
        "n_roots": whole(),
        "d_in": whole(),
        "orthogonal_steps": whole(0),
        "scale_children": flag(),
        "seed": whole(0),
        **STREAM,
    },
    "sae": {
        "d_sae": whole(),
        "k": whole(),
        "auxk_weight": number(),
        "k_aux": whole(null=True),
        "threshold_beta": number(0, 1),
        "threshold_start_step": whole(0),
        "l1_weight": number(),
        "l1_warmup_steps": whole(0),
        "aux_reconstruction": choice(),
        "l0_target": number(above=True, null=True),
        "l0_weight": number(),
        "l0_warmup_steps": whole(0),
        "initial_threshold": number(),
        "bandwidth": number(above=True),
        "group_fractions": listed(0, -1, "many", NAN, None, [1], 0.5),
        "n_corrections": whole(0),
        "step_size": number(),
        "learn_step_size": flag(),
        "decoder": choice(),
        "resample_every": whole(null=True),
    },
    "tracker": {
        "window_size": whole(),
        "alpha_cap": number(0, 1, above=True),
        "alpha_scale": number(above=True),
        "alpha_source": choice(),
        "alpha_floor": number(0, 1),
        "init": choice(),
        "storage": choice(),
        "prune_below": number(),
        "sharded": flag(),
        "totals_from": whole(0, null=True),
        "average_from": whole(0),
        "permuted_tokens": whole(),
        "seed": whole(0),
        "stream": choice(),
    },
    "loss": {
        "ortho_weight": number(),
        "beta": of(("much", "", NAN, INF, True, [0.5], {"a": 1}), null=False),
        "n_chunks": whole(null=True),
        "exponent": number(),
        "interval": whole(),
        "seed": whole(0),
        "penalty": choice(),
        "gram": choice(),
        "reduction": choice(),
        "weighting": choice(),
        "permuted": flag(),
        "start_tokens": whole(0),
        "floor": number(),
        "estimator": choice(),
        "sample_tokens": whole(null=True),
    },
    "trainer": {
        "num_tokens": whole(),
        "batch_size": whole(),
        "lr": number(above=True, null=True),
        "warmup_steps": whole(0, null=True),
        "decay_fraction": number(0, 1),
        "grad_clip": number(above=True, null=True),
        "beta1": number(0, 1),
        "beta2": number(0, 1),
        "eps": number(above=True),
        "reconstruction": choice(),
        "b_dec_init": choice(),
        "encoder_init": choice(),
        "constraint": choice(null=True),
        "dead_after_tokens": whole(null=True),
        "precision": choice(),
        "step": choice(),
        "encoder": choice(),
        "gradients": choice(),
        "compile": flag(),
        "log_every": whole(),
        "checkpoint_every": whole(),
        "checkpoint_minutes": number(above=True, null=True),
        "keep_every": of((0, -1, 1.5, "often", "", NAN, True, {"a": 1}), null=True),
        "resume": choice(),
    },
    "eval=activations": {
        "n_sequences": whole(),
        "batch_sequences": whole(),
        "window_size": whole(),
        "seed": whole(0),
    },
    "eval=auto": CORE,
    "eval=core": CORE,
    "eval=ground_truth": {"n_sequences": whole(), "batch_sequences": whole(), "seed": whole(0)},
    "eval=none": {},
    "eval=tasks": {
        "tasks": listed(*WORDS),
        "batch_texts": whole(),
        "snippets.n_packages": whole(2),
        "snippets.min_chars": whole(0),
        "snippets.max_per_file": whole(),
        "snippets.test_share": number(0, 1, above=True),
        "snippets.seed": whole(0),
        "absorption.template": text(),
        "absorption.n_examples": whole(0),
        "absorption.max_words": whole(),
        "absorption.test_share": number(0, 1, above=True),
        "absorption.probe_weight_decay": number(),
        "absorption.l1_decay": number(),
        "absorption.max_k": whole(),
        "absorption.f1_jump_threshold": number(0, 1),
        "absorption.min_probe_f1": number(0, 1),
        "absorption.min_letters": whole(),
        "absorption.batch_prompts": whole(),
        "sparse_probing.k_values": listed(*NUMBERS),
        "scr.n_values": listed(*NUMBERS),
        "tpp.n_values": listed(*NUMBERS),
        **{f"{task}.equal_norm": number(above=True) for task in ("scr", "tpp", "downstream")},
        "downstream.n_latents": whole(),
        "downstream.batch_texts": whole(),
        **{f"core.{key}": range_ for key, range_ in CORE.items()},
        **{
            f"{task}.{key}": range_
            for task in ("sparse_probing", "scr", "tpp", "downstream")
            for key, range_ in (ROWS | BOOTSTRAP).items()
        },
        **{f"absorption.{key}": range_ for key, range_ in BOOTSTRAP.items()},
    },
    "eval=saebench": {
        "evals": listed(*WORDS),
        "model_name": text(null=True),
        "llm_dtype": choice(null=True),
        "llm_batch_size": whole(),
        "seed": whole(0),
        "data_folder": text(null=True),
        "artifacts_path": text(null=True),
        "timeout_minutes": number(above=True, null=True),
        "core.batch_size_prompts": whole(),
        "core.n_eval_reconstruction_batches": whole(),
        "core.n_eval_sparsity_variance_batches": whole(),
        "core.dataset": text(),
        "core.context_size": whole(),
        "core.exclude_special_tokens_from_reconstruction": flag(),
        "sparse_probing.dataset_names": listed(*WORDS),
        "sparse_probing.probe_train_set_size": whole(),
        "sparse_probing.probe_test_set_size": whole(),
        "sparse_probing.context_length": whole(),
        "sparse_probing.sae_batch_size": whole(),
        "sparse_probing.k_values": listed(*NUMBERS),
        "sparse_probing.lower_vram_usage": flag(),
        "scr.column1_vals_lookup": of((3, "word", "", NAN, True, [1], {"a": 1}), null=False),
        **{f"{task}.{key}": r for task in ("scr", "tpp") for key, r in SCR_AND_TPP.items()},
        "absorption.f1_jump_threshold": number(),
        "absorption.max_k_value": whole(),
        "absorption.prompt_template": text(),
        "absorption.prompt_token_pos": of((0.5, "many", "", NAN, INF, True, [1], {"a": 1}), False),
        "absorption.k_sparse_probe_l1_decay": number(),
        "absorption.k_sparse_probe_batch_size": whole(),
        "absorption.k_sparse_probe_num_epochs": whole(),
        "absorption.min_GT_probe_f1": number(),
        "absorption.min_feats_for_eval": whole(),
        "absorption.eval_k_sparse_probe_batch_size": whole(),
        "absorption.precalc_k_sparse_probe_sae_acts": flag(),
        "unlearning.model_name": text(null=True),
        "unlearning.corpus": text(null=True),
        "unlearning.question_ids": text(null=True),
        "unlearning.dataset_size": whole(),
        "unlearning.seq_len": whole(),
        "unlearning.retain_thresholds": listed(-1, "many", NAN, None, [1]),
        "unlearning.n_features_list": listed(*NUMBERS),
        "unlearning.multipliers": listed("many", NAN, None, [1]),
        "autointerp.base_url": text(null=True),
        "autointerp.api_key_file": text(null=True),
        "autointerp.judge": text(),
        "autointerp.temperature": number(null=True),
        "autointerp.n_latents": whole(),
        "autointerp.dead_latent_threshold": whole(),
        "autointerp.dataset_name": text(),
        "autointerp.total_tokens": whole(),
        "autointerp.llm_context_size": whole(),
        "ravel.entity_attribute_selection": of((3, "word", "", NAN, True, [1], {"a": 1}), False),
        "ravel.top_n_entities": whole(),
        "ravel.full_dataset_downsample": whole(null=True),
        "ravel.num_pairs_per_attribute": whole(),
        "ravel.num_epochs": whole(),
        "ravel.learning_rate": number(),
        "ravel.n_generated_tokens": whole(),
        "sae_probes.dataset_names": listed(3, NAN, None, [1], null=True),
        "sae_probes.reg_type": choice(),
        "sae_probes.ks": listed(*NUMBERS),
        "sae_probes.binarize": flag(),
        "sae_probes.include_llm_baseline": flag(),
    },
    "logger=jsonl": {},
    "logger=tensorboard": {},
    "logger=wandb": {"project": text()},
}
