"""Saving the bundled language model, with the card that says how it was made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import Gemma2ForCausalLM, PreTrainedTokenizerFast


def save(
    model: Gemma2ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path, facts: dict[str, Any]
) -> None:
    """Write weights (float16), tokenizer and model card."""
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    config = json.loads((out / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # the name that transformers 4 knows too
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (out / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
    stages = "".join(STAGE.format(name=name, **stage) for name, stage in facts["stages"].items())
    (out / "README.md").write_text(CARD.format(rows=stages, **facts))


STAGE = """\
| stage "{name}" | {tokens:,} tokens, {minutes:.0f} minutes on {threads} CPU threads |
| held-out cross-entropy after it | {ce:.3f} nats a token |
"""

CARD = """# tiny: a Gemma-2 of {parameters:,} parameters

Made by `python -m temporal_sae.assets.train_tiny` for experiments with sparse autoencoders that
need neither a network nor a GPU. It writes things that look like Python, knows how its tokens are
spelled, and is good for nothing else.

| fact | value |
|---|---|
| architecture | Gemma-2: 6 layers, d_model 128, 4 heads (2 key-value), MLP 512, tied embedding |
| tokenizer | byte-level BPE, 2048 tokens, `<bos>` and `<eos>` |
| text | sources of the standard library of CPython {python}, files of the training split |
| facts | of the spelling of words, from `word_facts.py`: {facts_in_batch} sequences of a batch |
| context | {context} tokens |
| cross-entropy at the start | {ce_start:.3f} nats a token |
{rows}\
| **held-out cross-entropy** | **{ce_held_out:.3f} nats a token** on {held_out_tokens:,} tokens |
| held-out bits a byte | {bits_per_byte:.3f} |
| weights | float16 safetensors, seed {seed} |

Stage "sources" reads the text alone, stage "facts" text and facts together. Held-out files are
those of `data=stdlib` (10 % by a hash of the path), never seen in training and without facts.

The facts are programs whose assertions hold: `assert "word"[0] == "w"`, `list("word")`,
`.startswith`, `ord`, dictionaries by letter. They are of every alphabetic token and of identifiers
of the training files. None of their lines has the form in which `eval=tasks` asks for a letter, a
word at the start of a line and its letter behind it.

The text is covered by the PSF licence; the weights carry the licence of this repository.
"""
