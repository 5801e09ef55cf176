"""A second pass that begins at the hook gives what the whole pass gives, to the bit."""

import pytest
import torch
from torch import nn

from temporal_sae.activations import LanguageModel
from tests.activations.tiny_models import FAMILIES, save_model

TOKENS = torch.arange(2, 50).view(2, 24)
PLACES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z")
CAUSAL = [family for family in FAMILIES if family != "bert"]


@pytest.fixture(scope="module", params=[*CAUSAL, "tiny"])
def model(tmp_path_factory, request):
    """A model of three layers, or the bundled one."""
    name = request.param
    if name == "tiny":
        return LanguageModel("tiny", "blocks.1.hook_resid_post")
    layers = {"gpt2": "n_layer"}.get(name, "num_hidden_layers")
    changes = {layers: 3}
    if name == "gemma3_with_images":
        changes = {"text_config": FAMILIES[name][1]["text_config"] | changes}
    folder = save_model(tmp_path_factory.mktemp(name), name, **changes)
    return LanguageModel(str(folder), "blocks.1.hook_resid_post")


def layers_of(model):
    lists = [m for m in model.model.modules() if isinstance(m, nn.ModuleList)]
    return next(m for m in lists if len(m) == model.n_layers and hasattr(m[0], "forward"))


def path_of(model, module):
    return next(name for name, m in model.model.named_modules() if m is module)


def runs(model, action):
    """Return for each layer how often its MLP has run during `action`, and the result of that."""
    layers = text_layers(model)
    counts = [0] * len(layers)

    def count(n):
        def counted(*_):
            counts[n] += 1

        return counted

    handles = [
        layer.mlp.register_forward_hook(count(n)) for n, layer in enumerate(layers)
    ]
    try:
        return counts, action()
    finally:
        for handle in handles:
            handle.remove()


def text_layers(model):
    path = model.at("blocks.0.hook_resid_post").point.path
    return model.model.get_submodule(path.rpartition(".")[0])


def some(hidden):
    """Return other activations at some tokens, as an evaluation does."""
    replaced = torch.arange(hidden.shape[1])[None, :, None] % 3 > 0
    return torch.where(replaced, hidden * 0.5 + 1, hidden)


def same(model, first_layer):
    """Assert that the second pass is right and runs the layers from `first_layer` on alone."""
    logits, behind = model.plain_pass(TOKENS)
    assert torch.equal(logits, model.logits(TOKENS))
    for edit in (some, torch.zeros_like, torch.clone, some):
        expected = model.logits(TOKENS, edit)
        counts, found = runs(model, lambda e=edit: behind(e))
        assert torch.equal(found, expected)
        assert counts == [int(n >= first_layer) for n in range(model.n_layers)]
    assert torch.equal(behind(torch.clone), logits)
    assert not torch.equal(behind(some), logits)
    assert torch.equal(model.logits(TOKENS), logits)  # all layers run again


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("place", PLACES)
def test_places_by_their_names(model, layer, place):
    if place == "resid_mid" and model.model.config.model_type == "gpt_neox":
        if model.model.config.use_parallel_residual:
            pytest.skip("nothing lies between attention and MLP")
    same(model.at(f"blocks.{layer}.hook_{place}"), layer + (place == "resid_post"))


def test_modules_of_a_layer_and_their_inputs(model):
    layers = text_layers(model)
    path = path_of(model, layers)
    same(model.at(f"{path}.1"), 2)
    same(model.at(f"{path}.1.input"), 1)
    same(model.at(f"{path}.1.mlp"), 1)
    same(model.at(f"{path}.2.mlp.input"), 2)


def test_a_place_outside_of_all_layers_takes_the_whole_pass(model):
    embedding = path_of(model, model.model.get_input_embeddings())
    same(model.at(embedding), 0)
