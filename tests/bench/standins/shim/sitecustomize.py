"""Let a Gemma-2 by the name of the 2b have the sizes of its own config.

TransformerLens has a table of sizes by name and never opens the config. Python runs this file at
its start when the folder is on PYTHONPATH; the table is corrected once the module is imported.
"""

import importlib.abc
import importlib.util
import sys

MODULE = "transformer_lens.loading_from_pretrained"


class SizesFromTheConfig(importlib.abc.MetaPathFinder):
    """Finds the module as usual, and adds to what its loader does."""

    def find_spec(self, name, path=None, target=None):
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            convert = module.convert_hf_model_config
            module.convert_hf_model_config = lambda *a, **k: corrected(convert(*a, **k))

        spec.loader.exec_module = exec_module
        return spec


def corrected(sizes):
    """The same table with the sizes of the model that is there."""
    if sizes.get("original_architecture") != "Gemma2ForCausalLM":
        return sizes
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(sizes["tokenizer_name"])
    n = config.num_hidden_layers
    return {
        **sizes,
        "d_model": config.hidden_size,
        "d_head": config.head_dim,
        "n_heads": config.num_attention_heads,
        "n_key_value_heads": config.num_key_value_heads,
        "d_mlp": config.intermediate_size,
        "n_layers": n,
        "d_vocab": config.vocab_size,
        "attn_types": [("local", "global")[layer % 2] for layer in range(n)],
    }


sys.meta_path.insert(0, SizesFromTheConfig())
