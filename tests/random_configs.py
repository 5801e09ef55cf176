"""Random configurations, drawn from the config tree: what each key may be, at a size of a second.

Every value is one that its key allows by itself; which values go together is for the run to say.
"""

from dataclasses import dataclass, field

from omegaconf import OmegaConf

from temporal_sae.tracker import all_weightings
from tests.test_config_surface import GROUPS, composed

# What needs a network, a gated model, packages of its own, or files of activations. Presets only
# set other keys.
LEFT_OUT = {
    *(("activations", option) for option in ("files", "store", "synthsaebench")),
    *(("model", option) for option in GROUPS["model"] if option not in ("hf", "tiny")),
    ("data", "mixture"),
    *(("eval", option) for option in GROUPS["eval"] if option.startswith("saebench")),
}
DRAWN_FROM = [group for group in GROUPS if group not in ("experiment", "sweep")]


def one_of(*values):
    return lambda draw: draw.choice(values)


def ints(low, high):
    return lambda draw: draw.randint(low, high)


def floats(low, high):
    return lambda draw: round(draw.uniform(low, high), 4)


def log(low, high):
    return lambda draw: float(f"{low * (high / low) ** draw.random():.3g}")


def or_null(value):
    return lambda draw: draw.choice((None, value(draw)))


def rarely_null(value):
    return lambda draw: draw.choice((None, *[value(draw)] * 4))


def or_zero(value):
    return lambda draw: draw.choice((0, value(draw), value(draw)))


FLAG = one_of(True, False)
SEED = ints(0, 2**31)
ROWS = {"train_rows": ints(4, 8), "test_rows": ints(3, 5), "n_resamples": ints(5, 20), "seed": SEED}

VALUES = {
    "": {
        "seed": SEED,
        "device": one_of("auto", "cpu"),
        "objective": one_of("explained_variance", "final_loss", "l0", "dead_share"),
        "push_to_hub": one_of(None),  # goes to the network
        "overwrite": FLAG,
        "debug": one_of(False),  # is there to show tracebacks
        "plugins": one_of([]),
        "finetune": one_of(None),  # a folder of an SAE of the same width
    },
    "model": {
        "hook_name": one_of(
            "blocks.0.hook_resid_pre", "blocks.1.hook_resid_post", "model.layers.2.mlp"
        ),
        "dtype": one_of("float32", "float32", "bfloat16", "float16"),
        "revision": one_of(None),
        "attn_implementation": one_of(None, "eager"),
        "device_map": one_of(None),  # takes a package of its own
        "quantization": one_of(None),  # takes CUDA
        "local_files_only": FLAG,
    },
    "data": {
        "pattern": one_of("*", "*.txt"),
        "exclude": one_of([], ["drafts"]),
        "held_out_fraction": or_zero(floats(0.05, 0.6)),
        "max_document_chars": or_null(ints(200, 20_000)),
        "subset": one_of(None),
        "dataset_split": one_of("train"),
        "text_column": one_of("text"),
        "tokens_column": one_of(None),
        "messages_column": one_of(None),
        "patience": ints(10, 300),
        "streaming": FLAG,
        "shuffle_buffer": or_zero(ints(2, 50)),
        "skip_broken": or_zero(ints(1, 9)),
        "changed": one_of("refuse", "accept"),
    },
    "activations": {
        "context_size": ints(2, 64),
        "prepend_bos": FLAG,
        "exclude": one_of([], ["bos", "separators"], ["special"]),
        "lm_batch_size": ints(1, 32),
        "buffer_tokens": ints(100, 4000),
        "normalize": FLAG,
        "outliers": one_of("keep", "drop", "clip"),
        "outlier_factor": floats(1.0, 12.0),
        "prefetch": one_of("auto", True, False, 3),
        "seed": SEED,
        "world.d_in": ints(4, 32),
        "world.n_features": ints(64, 100),  # at least those of the parents, children and pairs
        "world.l0": floats(1.0, 10.0),
        "world.zipf": floats(0.0, 1.5),
        "world.value_std": floats(0.0, 0.5),
        "world.noise": or_zero(floats(0.0, 0.1)),
        "world.n_parents": ints(0, 8),
        "world.n_children": ints(1, 3),
        "world.child_rate": floats(0.0, 1.0),
        "world.n_true_pairs": ints(0, 8),
        "world.n_spurious_pairs": ints(0, 8),
        "world.orthogonal_steps": or_zero(ints(1, 20)),
        "world.pair_rate": floats(0.0, 1.0),
        "world.n_topics": ints(5, 9),  # more than the gain
        "world.topical_share": floats(0.0, 1.0),
        "world.topic_gain": floats(1.0, 4.5),
        "world.document_rows": ints(1, 300),
        "world.depth": one_of(1),  # more take more features
        "world.rank_by": one_of("chance", "role"),
        "world.correlation": or_zero(floats(0.0, 0.9)),
        "world.correlation_rank": ints(1, 30),
        "world.phase_rows": or_zero(ints(1, 5000)),
        "world.n_phases": ints(8, 12),
        "world.active_phases": ints(1, 4),
        "world.phase_gain": floats(1.0, 2.0),
        "order": one_of("documents", "rows"),
    },
    "sae": {
        "d_sae": ints(32, 64),
        "k": ints(1, 34),
        "auxk_weight": or_zero(log(0.001, 1.0)),
        "k_aux": or_null(ints(1, 32)),
        "threshold_beta": floats(0.0, 1.0),
        "threshold_start_step": ints(0, 10),
        "group_fractions": one_of([1.0], [0.25, 0.75], [0.1, 0.2, 0.3, 0.4]),
        "l1_weight": or_zero(log(0.001, 1.0)),
        "l1_warmup_steps": ints(0, 10),
        "n_corrections": ints(0, 3),
        "step_size": floats(0.0, 1.0),
        "learn_step_size": FLAG,
        "decoder": one_of("unit", "free"),
        "resample_every": or_null(ints(1, 6)),
        "l0_target": or_null(floats(1.0, 40.0)),
        "l0_weight": or_zero(log(0.01, 10.0)),
        "l0_warmup_steps": ints(0, 10),
        "initial_threshold": or_zero(log(0.0001, 0.1)),
        "bandwidth": log(0.0001, 0.1),
        "aux_reconstruction": one_of("fvu", "sse", "norm"),
    },
    "tracker": {
        "window_size": ints(1, 1500),
        "alpha_cap": log(0.01, 1.0),
        "alpha_scale": log(1.0, 10_000.0),
        "alpha_source": one_of("pair", "union", "const"),
        "alpha_floor": or_zero(floats(0.0, 0.1)),
        "init": one_of("first", "zero"),
        "storage": one_of("auto", "dense", "sparse", "reference"),
        "prune_below": or_zero(log(1e-6, 1e-3)),
        "sharded": FLAG,
        "totals_from": rarely_null(ints(1, 2000)),
        "stream": one_of("shuffled", "ordered", "permuted"),
        "permuted_tokens": ints(1, 1000),
        "average_from": ints(0, 2000),
        "seed": SEED,
    },
    "loss": {
        "ortho_weight": or_zero(log(0.01, 30.0)),
        "penalty": one_of("square", "abs"),
        "gram": one_of("decoder", "activations"),
        "reduction": one_of("weighted_mean", "sum", "mean"),
        "weighting": one_of(*all_weightings()),
        "permuted": one_of(False, True, "rates"),
        "start_tokens": ints(0, 2000),
        "floor": or_zero(floats(0.0, 2.0)),
        "estimator": one_of("auto", "exact", "sampled"),
        "sample_tokens": or_null(ints(1, 40)),
        "seed": SEED,
        "n_chunks": or_null(ints(1, 40)),
        "exponent": floats(0.0, 2.0),
        "interval": ints(1, 6),
        "beta": floats(-1.0, 1.0),
    },
    "trainer": {
        "num_tokens": ints(512, 2048),
        "batch_size": ints(16, 256),
        "lr": or_null(log(1e-4, 1e-2)),
        "warmup_steps": ints(0, 3),
        "decay_fraction": floats(0.0, 1.0),
        "grad_clip": or_null(log(0.1, 10.0)),
        "beta1": floats(0.0, 0.99),
        "beta2": floats(0.0, 0.999),
        "eps": log(1e-10, 1e-4),
        "reconstruction": one_of("fvu", "sse", "norm"),
        "b_dec_init": one_of("geometric_median", "mean", "zeros"),
        "encoder_init": one_of("fitted", "tied"),
        "constraint": one_of(None, None, None, "aligned", "soft_frozen_decoder", "frozen_encoder"),
        "dead_after_tokens": ints(1, 4000),
        "precision": one_of("float32", "bfloat16"),
        "step": one_of("auto", "sparse", "dense"),
        "encoder": one_of("auto", "auto", "dense", "screened"),
        "gradients": one_of("auto", "auto", "auto", "dense", "rows"),
        "compile": one_of(False),  # a minute or two
        "log_every": ints(1, 8),
        "checkpoint_every": ints(1, 50),
        "checkpoint_minutes": or_null(log(1e-6, 10.0)),
        "keep_every": one_of(None, "log", 3),
        "resume": one_of("auto", "never"),
    },
    "eval": {
        "lm_batch_size": ints(1, 16),
        "n_reconstruction_sequences": ints(1, 8),
        "n_sparsity_sequences": ints(1, 8),
        "n_sequences": ints(1, 8),
        "batch_sequences": ints(1, 16),
        "window_size": ints(1, 200),
        "seed": SEED,
        "tasks": one_of(["sparse_probing", "scr"], ["tpp", "downstream"], ["sparse_probing"]),
        "batch_texts": ints(1, 32),
        "snippets.n_packages": ints(2, 4),
        "snippets.min_chars": ints(20, 60),
        "snippets.max_per_file": ints(20, 40),
        "snippets.test_share": floats(0.2, 0.5),
        "snippets.seed": SEED,
        "sparse_probing.k_values": one_of([1], [1, 5], [2, 30]),
        "scr.n_values": one_of([2], [2, 20]),
        "tpp.n_values": one_of([2], [2, 20]),
        "absorption.template": one_of("\n{word}: '{letter}'"),
        "absorption.n_examples": ints(0, 3),
        "absorption.max_words": ints(100, 300),
        "absorption.test_share": floats(0.1, 0.5),
        "absorption.probe_weight_decay": log(1e-5, 1e-3),
        "absorption.l1_decay": log(0.001, 0.1),
        "absorption.max_k": ints(1, 5),
        "absorption.f1_jump_threshold": floats(0.0, 0.1),
        "absorption.min_probe_f1": floats(0.0, 0.7),
        "absorption.min_letters": ints(1, 3),
        "absorption.batch_prompts": ints(8, 64),
        **{f"{task}.equal_norm": floats(0.01, 1.0) for task in ("scr", "tpp", "downstream")},
        "downstream.n_latents": ints(1, 8),
        "downstream.batch_texts": ints(4, 16),
        **{f"{task}.{k}": v for task in ("sparse_probing", "scr", "tpp") for k, v in ROWS.items()},
        **{f"downstream.{key}": value for key, value in ROWS.items()},
        "absorption.n_resamples": ints(5, 20),
        "absorption.seed": SEED,
        "core.lm_batch_size": ints(1, 16),
        "core.n_reconstruction_sequences": ints(1, 8),
        "core.n_sparsity_sequences": ints(1, 8),
        "core.seed": SEED,
    },
    "logger": {"wandb.project": one_of("temporal_sae", "mine")},
}
# Those that make a run small are always drawn; of the others about a third.
ALWAYS = {
    *("activations.context_size", "activations.buffer_tokens", "sae.d_sae", "sae.k"),
    *("tracker.window_size", "trainer.num_tokens", "trainer.batch_size", "trainer.warmup_steps"),
    *(f"eval.{key}" for key in VALUES["eval"] if "seed" not in key),
}
SHARE = 0.33
OFTENER = {"eval": ("auto",) * 6, "activations": ("harvest", "harvest")}
NEEDS_MODEL = "harvest"  # the other sources have neither model nor text
# Folders that the test has made.
GIVEN = {"model.name", "data.path", "data.name", "activations.path"}


@dataclass
class Places:
    """Folders of a language model, of texts, of a data set, and of activations."""

    model: str
    texts: str
    data_set: str
    arrays: str


@dataclass
class Drawn:
    """A random configuration, as it is typed."""

    options: dict[str, str] = field(default_factory=dict)
    values: dict[str, object] = field(default_factory=dict)

    def overrides(self):
        chosen = [f"{group}={option}" for group, option in self.options.items()]
        return [*chosen, *(f"{key}={as_typed(value)}" for key, value in self.values.items())]


def as_typed(value):
    """A value in Hydra's grammar."""
    if isinstance(value, list):
        return "[" + ",".join(map(as_typed, value)) + "]"
    if isinstance(value, str) and not value.replace("_", "").isalnum():
        return "'" + value.replace("\n", "\\n").replace("'", "\\'") + "'"
    words = {type(None): "null", bool: str(value).lower()}
    return words.get(type(value), str(value))


def leaves(node, prefix=""):
    """Dotted keys of the options in a group's config."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        elif not key.startswith("_"):
            yield f"{prefix}{key}"


def keys_of(group, option):
    """The keys of a group's option."""
    return list(leaves(OmegaConf.to_container(composed(f"{group}={option}")[group], resolve=False)))


def top_keys():
    """The keys that belong to no group."""
    config = OmegaConf.to_container(composed(), resolve=False)
    return [
        key for key, value in config.items() if not isinstance(value, dict) and key not in GROUPS
    ]


def draw_config(draw, places):
    """A configuration of a run that takes about a second."""
    drawn = Drawn()
    for key in top_keys():
        take(draw, drawn, "", key)
    for group in ("activations", *DRAWN_FROM):
        without_model = drawn.options.get("activations", NEEDS_MODEL) != NEEDS_MODEL
        if group in drawn.options or (without_model and group in ("model", "data")):
            continue
        options = [o for o in GROUPS[group] if (group, o) not in LEFT_OUT]
        option = drawn.options[group] = draw.choice([*options, *OFTENER.get(group, ())])
        for key in keys_of(group, option):
            take(draw, drawn, group, key)
    if drawn.options["activations"] == "files":
        drawn.values["activations.path"] = places.arrays
    if drawn.options.get("model") == "hf":
        drawn.values["model.name"] = places.model
        drawn.values["model.hook_name"] = VALUES["model"]["hook_name"](draw)
    if drawn.options.get("data") == "text_files":
        drawn.values["data.path"] = places.texts
    if drawn.options.get("data") == "hub":
        drawn.values["data.name"] = places.data_set
    return drawn


def take(draw, drawn, group, key):
    """Perhaps draw a value for a key."""
    name = f"{group}.{key}".lstrip(".")
    if name not in GIVEN and (name in ALWAYS or draw.random() < SHARE):
        drawn.values[name] = VALUES[group][key](draw)
