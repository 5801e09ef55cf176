"""The options a person can type: growth is deliberate, and every preset composes."""

import importlib
import inspect
import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from hydra.utils import get_class
from omegaconf import OmegaConf

from temporal_sae.experiment import run_experiment
from temporal_sae.explain import explain_unknown_key
from temporal_sae.overrides.expand import expand

CONF = Path(__file__).parents[1] / "conf"
GROUPS = {
    "model": [
        "gemma_2_2b",
        "gemma_3_1b",
        "gpt2",
        "hf",
        "llama_3_2_1b",
        "pythia_160m",
        "pythia_70m",
        "qwen3_0_6b",
        "tiny",
    ],
    "data": ["hub", "mixture", "stdlib", "text_files"],
    "activations": ["files", "harvest", "store", "synthetic", "synthsaebench"],
    "sae": ["batch_topk", "gated", "jumprelu", "lista", "matryoshka", "standard", "topk"],
    "tracker": ["co_activation", "off", "transcript"],
    "loss": ["c2r", "consecutive", "orthogonality", "ortsae"],
    "trainer": ["default"],
    "eval": [
        "activations",
        "auto",
        "core",
        "ground_truth",
        "none",
        "saebench",
        "saebench_absorption",
        "saebench_autointerp",
        "saebench_core",
        "saebench_ravel",
        "saebench_reference",
        "saebench_run_1",
        "saebench_sae_probes",
        "saebench_scr",
        "saebench_sparse_probing",
        "saebench_tpp",
        "saebench_unlearning",
        "tasks",
    ],
    "logger": ["jsonl", "tensorboard", "wandb"],
    "experiment": [
        "baseline_standard",
        "baseline_topk",
        "gemma",
        "quick",
        "synthsaebench",
        "temporal",
        "temporal_floor",
        "temporal_run_1",
        "temporal_run_2",
        "toy",
        "twin",
    ],
    "sweep": ["alpha_cap", "dictionary_size", "full", "ortho_weight", "window"],
}
HYDRA_GROUPS = {
    "help": ["manual"],
    "launcher": ["local", "slurm"],
    "sweeper": ["bayes", "grid"],
}
GIVEN_BY_THE_RUN = {
    *("device", "d_in", "n_latents", "folder", "config", "model", "text", "options_of"),
}
OPTIONS = [
    (group, option)
    for group, options in GROUPS.items()
    for option in options
    if group not in ("experiment", "sweep")
]


def composed(*overrides, hydra=False):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=hydra)


def test_the_groups_are_these():
    def found(folder):
        groups = (p for p in folder.iterdir() if p.is_dir() and p.name != "hydra")
        return {group.name: sorted(o.stem for o in group.glob("*.yaml")) for group in groups}

    assert found(CONF) == GROUPS
    assert found(CONF / "hydra") == HYDRA_GROUPS


def target_of(group, option):
    """The class that does the work of one of our launchers or sweepers."""
    node = composed(f"hydra/{group}={option}", hydra=True).hydra[group]
    module, name = get_class(node["_target_"]).place.split(":")
    return getattr(importlib.import_module(module), name), node


@pytest.mark.parametrize("option", HYDRA_GROUPS["sweeper"])
def test_every_option_of_a_sweeper_is_an_argument(option):
    target, node = target_of("sweeper", option)
    refused = {"also"} if option == "bayes" else set()  # only so that a preset is refused in words
    arguments = set(inspect.signature(target).parameters)
    assert {k for k in node if k != "_target_"} == arguments - refused


@pytest.mark.parametrize("option", HYDRA_GROUPS["launcher"])
def test_every_option_of_a_launcher_is_an_argument_with_the_same_default(option):
    target, node = target_of("launcher", option)
    parameters = inspect.signature(target).parameters
    given = {k: v for k, v in OmegaConf.to_container(node).items() if k != "_target_"}
    assert given == {
        k: {} if k == "additional_parameters" else p.default for k, p in parameters.items()
    }


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_is_a_constructor_argument_and_every_argument_an_option(group, option):
    nodes = [OmegaConf.to_container(composed(f"{group}={option}")[group], resolve=False)]
    for node in nodes:
        nodes += [n for n in node.values() if isinstance(n, dict) and "_target_" in n]
        if group == "logger" and "_target_" not in node:  # each has a place of its own in it
            continue
        arguments = set(inspect.signature(get_class(node["_target_"])).parameters)
        keys = {key for key in node if not key.startswith("_")}
        assert keys == arguments - (GIVEN_BY_THE_RUN - keys)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_file_begins_with_what_it_is_for(group, option):
    assert (CONF / group / f"{option}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize("preset", GROUPS["sweep"])
def test_every_sweep_sweeps_by_itself_and_every_kind_of_its_jobs_composes(preset):
    hydra = composed(f"sweep={preset}", hydra=True).hydra
    assert hydra.mode == RunMode.MULTIRUN
    jobs = expand(OverridesParser.create(), hydra.sweeper.params, hydra.sweeper.also or [], [])
    kinds = {frozenset(override.split("=")[0] for override in job): job for job in jobs}
    assert len(kinds) == (3 if preset == "full" else 1)
    for job in kinds.values():
        composed(*job)


def test_the_full_sweep_has_all_combinations_a_baseline_and_a_control_for_each_seed():
    sweeper = composed("sweep=full", hydra=True).hydra.sweeper
    jobs = expand(OverridesParser.create(), sweeper.params, sweeper.also, [])
    baseline = [job for job in jobs if "tracker=off" in job]
    control = [job for job in jobs if "loss.permuted=True" in job]
    assert (len(jobs), len(baseline), len(control)) == (81 + 3 + 9, 3, 9)
    for some in (baseline, control):
        assert {o for job in some for o in job if "seed" in o} == {"seed=42", "seed=43", "seed=44"}


# Sizes of those that have neither model nor text.
KNOWN_WORLDS = {
    "toy": [],
    "twin": ["activations.world.n_features=400", "activations.world.n_parents=4"],
    "synthsaebench": [
        *("activations.n_features=400", "activations.n_roots=4", "activations.d_in=16"),
        "activations.orthogonal_steps=1",
    ],
}


@pytest.mark.parametrize("experiment", GROUPS["experiment"])
def test_every_experiment_runs_at_toy_size(experiment, random_gemma, tmp_path):
    overrides = [
        f"experiment={experiment}",
        "data=stdlib",
        f"model.name={random_gemma}",
        "model.hook_name=blocks.1.hook_resid_post",
        "activations.context_size=32",
        "activations.buffer_tokens=512",
        "sae.d_sae=64",
        "trainer.num_tokens=4096",
        "trainer.batch_size=256",
        "trainer.warmup_steps=2",
        "tracker.window_size=500",
        "eval=core",
        "eval.n_reconstruction_sequences=4",
        "eval.n_sparsity_sequences=4",
    ]
    # The options of a tracker and of a language model, where there is none.
    without = ("tracker.",) if "baseline" in experiment else ()
    if experiment in KNOWN_WORLDS:
        if experiment == "synthsaebench":
            pytest.importorskip("sae_lens")
        overrides += KNOWN_WORLDS[experiment]
        without = ("data=", "model.", "activations.context_size", "eval=core")
        without += () if experiment == "toy" else ("tracker.",)
    cfg = composed(*[o for o in overrides if not o.startswith(without)])
    if "k" in cfg.sae:
        cfg.sae.k = 4
    run_experiment(cfg, tmp_path / "run", overrides)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    title = "training results" + ("" if experiment in KNOWN_WORLDS else " for layer 1")
    assert results[title]["config"]["ortho_weight"] == cfg.loss.ortho_weight
    assert results["core evaluation results"]["metrics"]["sparsity"]["l0"] > 0


REFERENCE = {
    "baseline_topk": {"sae.d_sae": 18432, "sae.k": 320, "trainer.num_tokens": 10_000_000},
    "baseline_standard": {
        "sae.d_sae": 18432,
        "sae.l1_weight": 0.04,
        "trainer.lr": 9e-4,
        "trainer.num_tokens": 10_000_000,
    },
    "temporal_run_1": {
        "sae.d_sae": 4608,
        "sae.k": 160,
        "trainer.num_tokens": 5_000_000,
        "loss.ortho_weight": 0.1,
        "tracker.window_size": 1000,
        "tracker._target_": "temporal_sae.tracker.TranscriptTracker",
    },
    "temporal_run_2": {"sae.k": 160, "tracker.window_size": 2000, "loss.ortho_weight": 0.1},
    "temporal": {"sae.d_sae": 18432, "sae.k": 320, "loss.weighting": "instability"},
    "temporal_floor": {
        "sae.k": 320,
        "loss.weighting": "co_activation",
        "loss.floor": 1.0,
        "loss.ortho_weight": 6.0,
    },
}


@pytest.mark.parametrize("experiment", REFERENCE)
def test_presets_are_the_reference_runs(experiment):
    cfg = composed(f"experiment={experiment}")
    expected = REFERENCE[experiment] | {
        "model.name": "google/gemma-2-2b",
        "model.hook_name": "blocks.12.hook_resid_post",
        "activations.context_size": 128,
        "trainer.batch_size": 2048,
        "seed": 42,
    }
    assert {key: OmegaConf.select(cfg, key) for key in expected} == expected


def test_the_command_line_wins_over_the_experiment():
    cfg = composed("experiment=temporal", "sae.k=7", "loss.ortho_weight=0.3", "model=tiny")
    assert (cfg.sae.k, cfg.loss.ortho_weight, cfg.model.name) == (7, 0.3, "tiny")


def test_help_names_every_group_and_option():
    manual = OmegaConf.load(CONF / "hydra" / "help" / "manual.yaml").template
    groups = manual.split("GROUPS")[1].split("KEYS")[0]
    for group, options in GROUPS.items():
        assert f"\n  {group} " in groups
        for option in options:
            assert option in groups, option


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("tracker.windowsize", "nearest valid key is tracker.window_size"),
        ("trainer.learning_rate", "nearest valid key is trainer."),
        ("sed", "nearest valid key is seed"),
        ("SEED", "nearest valid key is seed"),
        ("lr", "nearest valid key is trainer.lr"),
        ("eval.scr.n_value", "nearest valid key is eval.scr.n_values"),
        ("sae.l1_weight", "belongs to sae=gated or sae=standard"),
        ("logger.wandb.project", "belongs to logger=wandb"),
        ("logger.wandb.projct", "nearest valid key is logger.wandb.project"),
        ("logger.project", "is called logger.wandb.project now"),
    ],
)
def test_unknown_keys_are_answered_with_the_nearest(typed, answer):
    assert answer in explain_unknown_key(typed, CONF)
