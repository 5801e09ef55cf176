"""Models without a head, weights that wait in their files, and options of loading."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from temporal_sae.activations import LanguageModel, loading
from temporal_sae.errors import InvalidOption
from tests.activations.tiny_models import FAMILIES, save_model

TOKENS = torch.arange(2, 26).view(2, 12)
HOOK = "blocks.0.hook_resid_post"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def refusal(folder, hook=HOOK, **options):
    with pytest.raises(InvalidOption) as refused:
        LanguageModel(str(folder), hook, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# --- models without a head -----------------------------------------------------------------------


@pytest.mark.parametrize("with_head", [True, False])
def test_an_encoder_is_harvested_and_has_no_loss(with_head, tmp_path):
    save_model(tmp_path, "bert")
    if not with_head:
        transformers.BertModel.from_pretrained(tmp_path).save_pretrained(tmp_path)
    plain = transformers.BertModel.from_pretrained(tmp_path).eval()
    states = plain(TOKENS, output_hidden_states=True).hidden_states
    for layer in (0, 1):
        model = LanguageModel(str(tmp_path), f"blocks.{layer}.hook_resid_post")
        assert torch.equal(model.activations(TOKENS), states[layer + 1])
    assert torch.equal(
        LanguageModel(str(tmp_path), "blocks.1.hook_resid_pre").activations(TOKENS), states[1]
    )
    why = "bert is an encoder, which reads what it would have to predict"
    assert model.why_no_loss == why
    with pytest.raises(InvalidOption, match=why):
        model.logits(TOKENS)


def test_what_an_encoder_adds(tmp_path):
    save_model(tmp_path, "bert")
    names = [f"blocks.1.{place}" for place in ("hook_attn_out", "hook_mlp_out", "attn.hook_z")]
    model = LanguageModel(str(tmp_path), names[0])
    layer, seen = model.model.encoder.layer[1], {}
    layer.attention.output.dense.register_forward_hook(
        lambda _, args, out: seen.update(out=out, z=args[0])
    )
    layer.output.dense.register_forward_hook(lambda _, args, out: seen.update(mlp=out))
    found = model.activations_at(TOKENS, names)
    model.model(TOKENS)
    for name, expected in zip(names, ("out", "mlp", "z"), strict=True):
        assert torch.equal(found[name], seen[expected])
    assert "encoder.layer.L" in refusal(tmp_path, "blocks.1.hook_resid_mid")


def test_a_model_whose_files_hold_no_head(tmp_path):
    save_model(tmp_path, "llama")
    transformers.LlamaModel.from_pretrained(tmp_path).save_pretrained(tmp_path)
    model = LanguageModel(str(tmp_path), HOOK)
    assert model.why_no_loss == "its files hold no head (lm_head.weight)"
    states = model.model(TOKENS, output_hidden_states=True).hidden_states
    assert torch.equal(model.activations(TOKENS), states[1])


def test_a_causal_model_has_a_loss(small_model):
    assert small_model.why_no_loss is None


def test_a_model_that_reads_two_texts_is_refused(tmp_path):
    save_model(tmp_path, "llama")
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    config = transformers.T5Config(vocab_size=2048, **sizes)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    assert "t5 has an encoder and a decoder, which read different tokens" in refusal(tmp_path)


# --- weights that wait in their files ------------------------------------------------------------


def store_as(folder, dtype):
    """Write the weights in another dtype; a dictionary has that of some of them."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    of = dtype if isinstance(dtype, dict) else dict.fromkeys(weights, dtype)
    changed = {n: w.to(of.get(n, w.dtype)).contiguous() for n, w in weights.items()}
    save_file(changed, path, metadata={"format": "pt"})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("stored", "wanted"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_weights_are_the_same_as_if_all_were_loaded_at_once(family, stored, wanted, tmp_path):
    save_model(tmp_path, family)
    store_as(tmp_path, DTYPES[stored])
    model = LanguageModel(str(tmp_path), HOOK, wanted)
    plain = type(model.model).from_pretrained(tmp_path, dtype=DTYPES[wanted]).eval()
    with torch.no_grad():
        output = plain(input_ids=TOKENS, output_hidden_states=True)
    assert torch.equal(model.activations(TOKENS), output.hidden_states[1])
    if model.why_no_loss is None:
        assert torch.equal(model.logits(TOKENS), output.logits)


def test_layers_behind_the_hook_stay_in_their_files_until_they_are_needed(tmp_path):
    save_model(tmp_path, "llama", num_hidden_layers=4)
    model = LanguageModel(str(tmp_path), HOOK, "bfloat16")

    def of_layers():
        return [layer.mlp.up_proj.weight.dtype for layer in model.model.model.layers]

    model.activations(TOKENS)
    one = sum(p.numel() for p in model.model.model.layers[0].parameters())
    beside = 2048 * 24 + 24  # the embedding and the norm, which stand beside the layers
    assert of_layers() == [torch.bfloat16] + [torch.float32] * 3
    assert model.model.lm_head.weight.dtype == torch.float32
    assert model.bytes_before_hook() == 2 * (one + beside)
    assert model.nbytes() == 2 * (4 * one + 2 * 2048 * 24 + 24)
    model.logits(TOKENS)
    assert of_layers() == [torch.bfloat16] * 4
    assert model.nbytes() == sum(p.nbytes for p in model.model.parameters())
    assert model.bytes_before_hook() == 2 * (one + beside)


def test_a_tied_head_needs_no_second_copy(random_gemma):
    model = LanguageModel(str(random_gemma), HOOK, "bfloat16")
    model.logits(TOKENS)
    assert model.model.lm_head.weight is model.model.model.embed_tokens.weight
    assert model.nbytes() == sum(p.nbytes for p in model.model.parameters())


def test_a_vision_tower_stays_in_its_file(tmp_path):
    save_model(tmp_path, "gemma3_with_images")
    model = LanguageModel(str(tmp_path), HOOK, "bfloat16")
    model.logits(TOKENS)
    assert {p.dtype for p in model.model.model.vision_tower.parameters()} == {torch.float32}


@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_weights_of_several_files_and_of_other_kinds_of_files(wanted, tmp_path):
    one, several, other = (tmp_path / name for name in ("one", "several", "other"))
    for folder in (one, several, other):
        save_model(folder, "llama")
    loaded = transformers.LlamaForCausalLM.from_pretrained(one)
    (several / "model.safetensors").unlink()
    loaded.save_pretrained(several, max_shard_size="20KB")
    assert len(list(several.glob("*.safetensors"))) > 2
    (other / "model.safetensors").unlink()
    torch.save(loaded.state_dict(), other / "pytorch_model.bin")
    first, *others = (LanguageModel(str(f), HOOK, wanted) for f in (one, several, other))
    for model in others:
        assert torch.equal(model.activations(TOKENS), first.activations(TOKENS))
        assert torch.equal(model.logits(TOKENS), first.logits(TOKENS))
    assert first.bytes_before_hook() < first.nbytes()


def test_files_of_two_dtypes_lose_nothing(tmp_path):
    save_model(tmp_path, "llama")
    store_as(tmp_path, {"model.layers.0.mlp.up_proj.weight": torch.bfloat16})
    model = LanguageModel(str(tmp_path), HOOK)
    plain = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert torch.equal(model.logits(TOKENS), plain(TOKENS).logits)


def test_weights_behind_the_hook_must_be_there_and_fit(tmp_path):
    save_model(tmp_path, "llama")
    path, name = tmp_path / "model.safetensors", "model.layers.1.mlp.up_proj.weight"
    whole = load_file(path)
    save_file({n: w for n, w in whole.items() if n != name}, path, metadata={"format": "pt"})
    assert f"lack 1 of 21, such as {name}" in refusal(tmp_path)
    save_file(whole | {name: torch.ones(3, 16)}, path, metadata={"format": "pt"})
    assert f"{name} has shape [3, 16]" in refusal(tmp_path)


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_attention_that_is_asked_for(attention, tmp_path):
    save_model(tmp_path, "llama")
    model = LanguageModel(str(tmp_path), HOOK, attn_implementation=attention)
    assert model.model.config._attn_implementation == attention
    assert LanguageModel(str(tmp_path), HOOK).model.config._attn_implementation == "sdpa"


def test_an_attention_that_the_model_does_not_have(random_gemma):
    said = refusal(random_gemma, attn_implementation="sdpa")
    assert said.startswith("attn_implementation='sdpa': must be null, or one that the model can")
    assert LanguageModel(str(random_gemma), HOOK).model.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"attn_implementation": "someone/kernel"}, "attn_implementation='someone/kernel': must"),
        ({"attn_implementation": "flash_attention_2"}, "a kernel is never fetched"),
        ({"device_map": "balanced"}, "device_map='balanced': must be null or one of auto, cpu"),
        ({"quantization": "8bit"}, "null on cpu: bitsandbytes quantises for CUDA alone"),
        ({"quantization": "2bit"}, "null or one of 8bit, 4bit"),
        ({"local_files_only": "yes"}, "true or false"),
    ],
)
def test_options_that_are_refused(options, said, random_gemma):
    assert said in refusal(random_gemma, **options)


def test_what_an_option_needs_must_be_installed(random_gemma, monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda package: None)
    said = "null, or first: pip install accelerate"
    assert refusal(random_gemma, device_map="auto").endswith(said)
    with pytest.raises(InvalidOption, match="pip install bitsandbytes accelerate"):
        loading.LoadOptions(quantization="4bit", device=torch.device("cuda"))


def test_a_model_spread_over_the_devices_there_are(tmp_path):
    pytest.importorskip("accelerate")
    save_model(tmp_path, "llama")
    spread = LanguageModel(str(tmp_path), HOOK, device_map="auto")
    plain = LanguageModel(str(tmp_path), HOOK)
    assert torch.equal(spread.activations(TOKENS), plain.activations(TOKENS))
    assert torch.equal(
        spread.logits(TOKENS, torch.zeros_like), plain.logits(TOKENS, torch.zeros_like)
    )
    assert spread.bytes_before_hook() == spread.nbytes() == plain.nbytes()


def test_the_model_may_be_on_another_device_than_the_run(random_gemma):
    model = LanguageModel(str(random_gemma), HOOK, device="meta", device_map="cpu")
    assert model.device == model.activations(TOKENS).device == torch.device("cpu")


def test_files_of_this_machine_only():
    said = refusal("somebody/model", local_files_only=True)
    assert said.startswith("name='somebody/model': must be ")
    assert "local_files_only is set" in said


def test_a_config_may_not_choose_a_kernel(tmp_path):
    save_model(tmp_path, "llama")
    config = json.loads((tmp_path / "config.json").read_text())
    config["attn_implementation"] = "someone/kernel"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "code of its own" in refusal(tmp_path, attn_implementation="eager")
