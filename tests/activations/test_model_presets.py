"""Presets of conf/model, on untrained models of the same class and with as many layers."""

import pytest
import torch
from omegaconf import OmegaConf

from temporal_sae.activations import LanguageModel
from temporal_sae.experiment.construct import build
from tests.activations.tiny_models import FAMILIES, save_model
from tests.test_config_surface import GROUPS, composed

FAMILY = {
    "gpt2": "gpt2",
    "pythia_70m": "gpt_neox",
    "pythia_160m": "gpt_neox",
    "gemma_2_2b": "gemma2",
    "gemma_3_1b": "gemma3",
    "qwen3_0_6b": "qwen3",
    "llama_3_2_1b": "llama",
}
LAYERS = {
    "gpt2": 12,
    "pythia_70m": 6,
    "pythia_160m": 12,
    "gemma_2_2b": 26,
    "gemma_3_1b": 26,
    "qwen3_0_6b": 28,
    "llama_3_2_1b": 16,
}


def test_every_preset_of_a_model_is_tried():
    assert set(FAMILY) == set(LAYERS) == set(GROUPS["model"]) - {"hf", "tiny"}


@pytest.mark.parametrize("preset", FAMILY)
def test_a_preset_reads_a_place_in_the_middle_of_its_model(preset, tmp_path):
    family, n_layers = FAMILY[preset], LAYERS[preset]
    key = "n_layer" if "n_layer" in FAMILIES[family][1] else "num_hidden_layers"
    save_model(tmp_path, family, **{key: n_layers})
    cfg = composed(f"model={preset}")
    OmegaConf.update(cfg, "model.name", str(tmp_path))
    model = build(cfg, "model", device=torch.device("cpu"))
    assert isinstance(model, LanguageModel)
    assert n_layers // 3 <= model.layer <= 2 * n_layers // 3
    tokens = torch.arange(2, 26).view(2, 12)
    states = model.model(tokens, output_hidden_states=True).hidden_states
    found = model.activations(tokens)
    assert torch.equal(found, states[model.layer + 1])
    assert str(found.dtype) == f"torch.{cfg.model.dtype}"
    assert model.why_no_loss is None
