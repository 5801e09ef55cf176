"""Places of every kind in models of every kind, to the bit."""

import pytest
import torch

from temporal_sae.activations import LanguageModel
from temporal_sae.errors import InvalidOption
from tests.activations.tiny_models import FAMILIES, save_model

TOKENS = torch.arange(2, 26).view(2, 12)
CAUSAL = [family for family in FAMILIES if family != "bert"]
# The modules of layer 1 whose outputs are added to the stream, and what the second sum reads.
ADDED = {
    "gpt2": ("transformer.h.1.attn", "transformer.h.1.mlp"),
    "gpt_neox": ("gpt_neox.layers.1.attention", "gpt_neox.layers.1.mlp"),
    "gpt_neox_in_turn": ("gpt_neox.layers.1.attention", "gpt_neox.layers.1.mlp"),
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "phi3"),
        ("model.layers.1.self_attn", "model.layers.1.mlp"),
    ),
    **{
        family: (
            f"{path}.layers.1.post_attention_layernorm",
            f"{path}.layers.1.post_feedforward_layernorm",
        )
        for family, path in {
            "gemma2": "model",
            "gemma3": "model",
            "gemma3_with_images": "model.language_model",
            "olmo2": "model",
        }.items()
    },
}
PROJECTION = {"gpt2": "c_proj", "gpt_neox": "dense", "gpt_neox_in_turn": "dense"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, request):
    """Folder of a model, which the tests of a family share."""
    return save_model(tmp_path_factory.mktemp(request.param), request.param)


def each(*families):
    return pytest.mark.parametrize(
        ("folder", "family"), [(f, f) for f in families], indirect=["folder"], scope="module"
    )


def at(folder, hook_name):
    return LanguageModel(str(folder), hook_name)


def outputs(model, *paths):
    """Return the modules' outputs and the hidden states of transformers' own forward pass."""
    found = {}
    handles = [
        model.model.get_submodule(path).register_forward_hook(
            lambda _, args, out, p=path: found.update(
                {p: out[0] if isinstance(out, tuple) else out, f"{p}.input": args and args[0]}
            )
        )
        for path in paths
    ]
    with torch.no_grad():
        states = model.model(input_ids=TOKENS, output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    return found, states


@each(*CAUSAL)
def test_the_stream_and_what_is_added_to_it(folder, family):
    attention, mlp = ADDED[family]
    model = at(folder, "blocks.1.hook_resid_pre")
    found, states = outputs(model, attention, mlp)
    read = model.activations_at(
        TOKENS,
        [f"blocks.1.hook_{p}" for p in ("resid_pre", "attn_out", "mlp_out", "resid_post")]
        + ["blocks.0.hook_resid_post"],
    )
    assert torch.equal(read["blocks.1.hook_resid_pre"], states[1])
    assert torch.equal(read["blocks.0.hook_resid_post"], states[1])
    assert torch.equal(read["blocks.1.hook_attn_out"], found[attention])
    assert torch.equal(read["blocks.1.hook_mlp_out"], found[mlp])
    total = states[1] + found[attention] + found[mlp]
    assert torch.allclose(read["blocks.1.hook_resid_post"], total, atol=1e-5, rtol=1e-4)


@each(*(f for f in CAUSAL if f != "gpt_neox"))
def test_the_stream_between_attention_and_mlp(folder, family):
    attention, mlp = ADDED[family]
    model = at(folder, "blocks.1.hook_resid_mid")
    found, states = outputs(model, attention, mlp)
    middle = model.activations(TOKENS)
    assert torch.equal(middle, states[1] + found[attention])

    seen = {}
    layer, added = model.model.get_submodule(attention.rpartition(".")[0]), mlp
    for name, module in (("after", layer), ("mlp", model.model.get_submodule(added))):
        module.register_forward_hook(lambda _, args, out, n=name: seen.update({n: out}))
    model.logits(TOKENS, lambda x: 2 * x)  # what follows and the stream beside it see the edit
    after = seen["after"][0] if isinstance(seen["after"], tuple) else seen["after"]
    assert torch.equal(after, 2 * middle + seen["mlp"])


@each("gpt_neox")
def test_nothing_lies_between_in_a_parallel_block(folder, family):
    module = "gpt_neox.layers.1.post_attention_layernorm.input"
    with pytest.raises(InvalidOption, match="nothing lies between") as refused:
        at(folder, "blocks.1.hook_resid_mid")
    assert module in str(refused.value)
    model = at(folder, module)  # a module's input can be read, and is called by its own name
    assert model.hook_name == module
    assert torch.equal(model.activations(TOKENS), outputs(model)[1][1])


@each(*CAUSAL)
def test_what_the_heads_return(folder, family):
    layer = ADDED[family][0].rpartition(".")[0]
    attention = ADDED[family][0] if "norm" not in ADDED[family][0] else f"{layer}.self_attn"
    projection = f"{attention}.{PROJECTION.get(family, 'o_proj')}"
    model = at(folder, "blocks.1.attn.hook_z")
    assert model.hook_name == "blocks.1.attn.hook_z"
    found, _ = outputs(model, projection)
    assert torch.equal(model.activations(TOKENS), found[f"{projection}.input"])
    for name in ("blocks.1.hook_z", f"{projection}.input"):
        assert at(folder, name).hook_name == "blocks.1.attn.hook_z"


@each(*CAUSAL)
def test_a_module_is_called_as_transformer_lens_calls_it(folder, family):
    model = at(folder, "blocks.1.hook_resid_post")
    path = model.point.path
    assert at(folder, path).hook_name == "blocks.1.hook_resid_post"
    assert at(folder, f"{path}.input").hook_name == "blocks.1.hook_resid_pre"
    assert at(folder, at(folder, "blocks.0.hook_mlp_out").point.path).hook_name == (
        "blocks.0.hook_mlp_out"
    )
    assert model.layer == 1


@each("gemma3_with_images")
def test_a_vision_tower_with_as_many_layers_is_passed_over(folder, family):
    assert at(folder, "blocks.1.hook_resid_post").point.path == "model.language_model.layers.1"


@each("llama")
def test_any_module_and_its_input(folder, family):
    paths = ("model.embed_tokens", "model.layers.1.mlp.up_proj", "model.layers.0.self_attn")
    model = at(folder, paths[0])
    found, _ = outputs(model, *paths)
    for path in paths:
        assert torch.equal(at(folder, path).activations(TOKENS), found[path])
    inside = at(folder, f"{paths[1]}.input")
    assert inside.hook_name == f"{paths[1]}.input"
    assert torch.equal(inside.activations(TOKENS), found[f"{paths[1]}.input"])
    by_keyword = at(folder, f"{paths[2]}.input")  # which the layer gives by its name
    normed = outputs(by_keyword, "model.layers.0.input_layernorm")[0]
    assert torch.equal(by_keyword.activations(TOKENS), normed["model.layers.0.input_layernorm"])
    assert not torch.equal(by_keyword.logits(TOKENS, lambda x: 2 * x), by_keyword.logits(TOKENS))
    assert inside.layer == 1 and model.layer is None


@each("llama")
@pytest.mark.parametrize("name", ["model.input", "model.embed_tokens.input", "lm_head.none"])
def test_what_has_no_activations_is_refused_in_one_line(name, folder, family):
    with pytest.raises(InvalidOption) as refused:
        at(folder, name)
    assert refused.value.option == "hook_name" and "\n" not in str(refused.value)


@each("llama")
def test_a_name_that_is_none_is_answered_with_those_that_are(folder, family):
    with pytest.raises(InvalidOption) as refused:
        at(folder, "blocks.1.hook_q")
    assert str(refused.value) == (
        "hook_name='blocks.1.hook_q': must be blocks.L.PLACE with PLACE one of hook_resid_pre, "
        "hook_resid_mid, hook_resid_post, hook_attn_out, hook_mlp_out, attn.hook_z, or a module "
        "path such as model.layers.L or model.layers.L.input, with L from 0 to 1"
    )


def test_what_a_layer_scales_before_it_is_added_is_not_what_is_added(tmp_path):
    """Granite multiplies, and has Llama's names."""
    from transformers import GraniteConfig, GraniteForCausalLM

    save_model(tmp_path, "llama")
    sizes = {"vocab_size": 2048, "hidden_size": 16, "intermediate_size": 32}
    config = GraniteConfig(
        **sizes, num_hidden_layers=2, num_attention_heads=2, residual_multiplier=0.5
    )
    GraniteForCausalLM(config).save_pretrained(tmp_path)
    for place, why in {
        "hook_attn_out": "is not what is added",
        "hook_mlp_out": "is not what is added",
        "hook_resid_mid": "or scale it",
    }.items():
        with pytest.raises(InvalidOption, match=why):
            at(tmp_path, f"blocks.1.{place}")


@each("llama")
def test_the_forward_pass_ends_behind_the_last_of_several_places(folder, family):
    model = at(folder, "model.embed_tokens")
    names = ["blocks.0.hook_mlp_out", "model.embed_tokens", "blocks.0.hook_resid_pre"]
    model.activations_at(TOKENS, names)  # which has a look at the places, the first time
    reached = []
    for layer in model.model.model.layers:
        layer.register_forward_hook(lambda *_: reached.append(1))
    found = model.activations_at(TOKENS, names)
    assert list(found) == names and reached == []
    for name in names:
        assert torch.equal(found[name], at(folder, name).activations(TOKENS))


@each("llama")
def test_one_model_read_at_several_places(folder, family):
    model = at(folder, "blocks.0.hook_resid_post")
    other = model.at("blocks.1.hook_mlp_out")
    alone = at(folder, "blocks.1.hook_mlp_out")
    assert (other.hook_name, other.layer, other.d_in) == ("blocks.1.hook_mlp_out", 1, 24)
    assert model.hook_name == "blocks.0.hook_resid_post" and model.layer == 0
    assert other.model is model.model and other.tokenizer is model.tokenizer
    assert torch.equal(other.activations(TOKENS), alone.activations(TOKENS))
    assert torch.equal(other.logits(TOKENS, torch.neg), alone.logits(TOKENS, torch.neg))
    assert not torch.equal(model.logits(TOKENS, torch.neg), alone.logits(TOKENS, torch.neg))
    assert model.at("model.layers.1.mlp.up_proj").d_in == 32
    for wrong in ("blocks.2.hook_resid_post", 7):
        with pytest.raises(InvalidOption) as refused:
            model.at(wrong)
        assert refused.value.option == "hook_name"


def test_weights_of_one_model_come_when_a_place_needs_them(tmp_path):
    folder = save_model(tmp_path, "llama", num_hidden_layers=4)

    def read(hook_name):
        return LanguageModel(str(folder), hook_name, "bfloat16")

    first, deep = "blocks.0.hook_resid_post", "blocks.2.hook_resid_post"
    model = read(first)
    other = model.at(deep)
    assert model.bytes_before_hook() == read(first).bytes_before_hook()
    assert other.bytes_before_hook() == read(deep).bytes_before_hook() < model.nbytes()
    dtypes = [layer.mlp.up_proj.weight.dtype for layer in model.model.model.layers]
    assert dtypes == [torch.bfloat16] * 3 + [torch.float32]
    assert other.at(first).bytes_before_hook() == other.bytes_before_hook()  # they are there


@each("llama")
def test_what_is_added_in_place_behind_one_of_several_places_is_not_read_there(folder, family):
    model = at(folder, "blocks.1.hook_resid_post")
    hook = "blocks.0.hook_resid_post"
    alone = model.at(hook).activations(TOKENS)
    last = model.model.model.layers[1]
    last.register_forward_pre_hook(lambda _, args: (args[0].add_(1), *args[1:]))
    assert torch.equal(model.activations_at(TOKENS, [hook, model.hook_name])[hook], alone)
