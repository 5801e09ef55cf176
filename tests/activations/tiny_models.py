"""Untrained models of two layers, of every class that people start with."""

import torch
import transformers
from transformers import AutoTokenizer

from temporal_sae.assets import TINY_MODEL

SIZES = {
    "vocab_size": 2048,
    "hidden_size": 24,  # whose root, with which Gemma scales, is no number of few bits
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
HEADS = {"num_key_value_heads": 1, "head_dim": 8}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
VISION = {
    **{"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "image_size": 8, "patch_size": 4},
}
GPT2 = {"vocab_size": 2048, "n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 64}

# Name of the family: stem of transformers' classes, options of its config.
FAMILIES = {
    "gpt2": ("GPT2", {**GPT2, "bos_token_id": 1, "eos_token_id": 2}),
    "gpt_neox": ("GPTNeoX", {**SIZES, **TOKENS}),
    "gpt_neox_in_turn": ("GPTNeoX", {**SIZES, **TOKENS, "use_parallel_residual": False}),
    "llama": ("Llama", {**SIZES, **HEADS, **TOKENS}),
    "mistral": ("Mistral", {**SIZES, **HEADS, **TOKENS}),
    "qwen2": ("Qwen2", {**SIZES, "num_key_value_heads": 1, **TOKENS}),
    "qwen3": ("Qwen3", {**SIZES, **HEADS, **TOKENS}),
    "gemma2": ("Gemma2", {**SIZES, **HEADS}),
    "gemma3": ("Gemma3", {**SIZES, **HEADS}),
    "gemma3_with_images": ("Gemma3", {"text_config": {**SIZES, **HEADS}, "vision_config": VISION}),
    "olmo2": ("Olmo2", {**SIZES, "num_key_value_heads": 1, **TOKENS}),
    "phi3": ("Phi3", {**SIZES, "num_key_value_heads": 1, **TOKENS}),
    "bert": ("Bert", SIZES),
}
CLASSES = {
    "gpt2": ("GPT2Config", "GPT2LMHeadModel"),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM"),
    "gemma3_with_images": ("Gemma3Config", "Gemma3ForConditionalGeneration"),
    "bert": ("BertConfig", "BertForMaskedLM"),
}


def save_model(folder, family, **changes):
    """Write an untrained model of a family, with the bundled tokenizer, and return its folder."""
    stem, options = FAMILIES[family]
    config, model = CLASSES.get(family, (f"{stem}Config", f"{stem}ForCausalLM"))
    torch.manual_seed(0)
    built = getattr(transformers, model)(getattr(transformers, config)(**(options | changes)))
    for parameter in built.parameters():  # larger than at the start, so that everything counts
        torch.nn.init.normal_(parameter, std=0.3)
    built.save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY_MODEL).save_pretrained(folder)
    return folder
