"""Configs of jobs are those that Hydra composes."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import OmegaConf

from temporal_sae.commands import CONF
from temporal_sae.errors import RunError
from temporal_sae.overrides.compose import Composer

JOBS = (
    [],
    ["seed=3", "tracker.window_size=7"],
    ["tracker=off", "loss.ortho_weight=0", "seed=3"],
    ["loss.ortho_weight=0", "tracker=transcript", "tracker.window_size=9"],
    ["experiment=toy", "trainer.lr=0.5"],
    ["+sae.more=1", "sae.k=2", "++sae.k=3"],
    ["~data", "~model", "activations=synthetic"],
    ["sae={k:5,auxk_weight:0.5}", "data.held_out_fraction=${loss.ortho_weight}"],
    ["eval=none", "logger=wandb", "plugins=[a,b]", "trainer.lr=inf"],
    ["logger=[tensorboard,wandb]", "logger.wandb.project=mine", "seed=3"],
)


@pytest.fixture(scope="module")
def loader():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield GlobalHydra.instance().hydra.config_loader


@pytest.fixture
def composer(loader):
    words = ["hydra.sweep.dir=s", "hydra.mode=MULTIRUN"]
    return Composer(compose("config", words, return_hydra_config=True), loader)


@pytest.mark.parametrize("overrides", JOBS, ids=" ".join)
def test_a_job_has_the_config_that_its_command_line_composes(composer, overrides):
    for _ in range(2):  # the second time from the same base
        expected = OmegaConf.to_container(compose("config", overrides), resolve=True)
        assert composer.job(3, overrides, ())[1] == expected


def test_one_composition_serves_all_jobs_with_the_same_groups(composer, monkeypatch):
    calls = []
    real = composer.loader.load_sweep_config
    monkeypatch.setattr(
        composer.loader, "load_sweep_config", lambda *given: calls.append(given[1]) or real(*given)
    )
    for seed in range(20):
        composer.job(seed, [f"seed={seed}", "tracker=off"], ())
        composer.job(seed, ["tracker.window_size=9", f"seed={seed}"], ())
        composer.job(seed, [f"seed={seed}", "logger=[jsonl,wandb]"], ())
    assert calls == [["tracker=off"], [], ["logger=[jsonl,wandb]"]]


def test_the_folder_is_named_after_the_job(composer):
    overrides = ["seed=3", "tracker=off", "device=cpu"]
    assert composer.job(7, overrides, ["seed=3"])[0] == "7_seed=3"
    assert composer.job(7, overrides, ())[0] == "7_seed=3,tracker=off"
    composer.config.hydra.overrides.hydra.append(
        "hydra.sweep.subdir='w${seed}/${hydra:job.num}/${hydra.job.id}'"
    )
    composer = Composer(composer.config, composer.loader)
    assert composer.job(7, overrides, ())[0] == "w3/7/7"


def test_what_a_config_says_of_its_own_folder_is_true(composer):
    own = ["finetune='${hydra:runtime.output_dir}'"]
    before = HydraConfig.instance().cfg
    assert composer.job(2, own, ["seed=1"])[1]["finetune"] == "s/2_seed=1"
    assert composer.job(2, own, (), "mine")[1]["finetune"] == "s/mine"
    assert HydraConfig.instance().cfg is before


@pytest.mark.parametrize("overrides", [["tracker.windw=1"], ["sae=nonesuch"], ["+sae.k=1"]])
def test_mistakes_are_hydras(composer, overrides):
    with pytest.raises(HydraException):
        composer.compose(overrides)


def test_what_refers_to_nothing_is_one_line(composer):
    with pytest.raises(RunError, match=r"loss\.ortho_weight: cannot be resolved \(.*nope"):
        composer.job(0, ["loss.ortho_weight=${nope}"], ())
