"""Names of places in a model, on architectures that call their layers differently."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

from temporal_sae.activations import LanguageModel
from temporal_sae.activations.hooks import find_hook_point
from temporal_sae.errors import InvalidOption

GPT2 = GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=8, vocab_size=20, n_positions=16))
NEOX = GPTNeoXForCausalLM(
    GPTNeoXConfig(
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_size=8,
        intermediate_size=8,
        vocab_size=20,
        max_position_embeddings=16,
    )
)


@pytest.mark.parametrize(
    ("model", "path"), [(GPT2, "transformer.h.1"), (NEOX, "gpt_neox.layers.1")]
)
def test_both_kinds_of_names_reach_the_same_module(model, path):
    by_lens = find_hook_point(model, 2, "blocks.1.hook_resid_post")
    by_path = find_hook_point(model, 2, path)
    assert by_lens.module is by_path.module is model.get_submodule(path)
    assert by_lens.layer == by_path.layer == 1
    assert not by_lens.reads_input


def test_a_module_inside_a_layer_and_one_outside():
    assert find_hook_point(GPT2, 2, "transformer.h.0.mlp").layer == 0
    assert find_hook_point(GPT2, 2, "transformer.wte").layer is None


@pytest.mark.parametrize("name", ["blocks.2.hook_resid_post", "blocks.1.hook_q", "nowhere", ""])
def test_places_that_do_not_exist(name):
    with pytest.raises(InvalidOption, match="from 0 to 1"):
        find_hook_point(GPT2, 2, name)


def test_activations_are_the_hidden_states(random_gemma):
    tokens = torch.arange(20).view(2, 10)
    for layer in (0, 1):  # the last hidden state of transformers has the final norm in it
        model = LanguageModel(str(random_gemma), f"blocks.{layer}.hook_resid_post")
        states = model.model(input_ids=tokens, output_hidden_states=True).hidden_states
        assert torch.equal(model.activations(tokens), states[layer + 1])
        before = LanguageModel(str(random_gemma), f"blocks.{layer}.hook_resid_pre")
        assert torch.equal(before.activations(tokens), states[layer])
        assert model.layer == before.layer == layer


def test_the_forward_pass_stops_at_the_hook(small_model):
    reached = []
    handle = small_model.model.model.layers[2].register_forward_pre_hook(
        lambda *_: reached.append(1)
    )
    small_model.activations(torch.zeros(1, 4, dtype=torch.int64))
    handle.remove()
    assert not reached


def test_edits_change_what_follows(random_gemma):
    tokens = torch.arange(20).view(2, 10)
    for hook in ("blocks.1.hook_resid_post", "blocks.2.hook_resid_pre", "model.layers.1"):
        model = LanguageModel(str(random_gemma), hook)
        plain = model.logits(tokens)
        assert torch.equal(plain, model.model(input_ids=tokens).logits)
        assert torch.equal(model.logits(tokens, lambda h: h), plain)
        assert not torch.allclose(model.logits(tokens, torch.zeros_like), plain)
        assert torch.equal(model.logits(tokens), plain)  # the hook is gone


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "/nowhere/model"}, "name="),
        ({"name": "./nowhere"}, "name="),
        ({"dtype": "int8"}, "dtype="),
        ({"hook_name": "blocks.9.hook_resid_post"}, "from 0 to 2"),
    ],
)
def test_mistakes(random_gemma, options, message):
    right = {"name": str(random_gemma), "hook_name": "blocks.0.hook_resid_post"}
    with pytest.raises(InvalidOption, match=message):
        LanguageModel(**{**right, **options})


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(InvalidOption, match="a model that can be loaded"):
        LanguageModel(str(tmp_path), "blocks.0.hook_resid_post")
