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
    told = "letters" in facts["stages"]
    spelling = " It was told how its tokens are spelled." if told else ""
    (out / "README.md").write_text(CARD.format(rows=stages, spelling=spelling, **facts))


STAGE = """\
| stage "{name}" | {tokens:,} tokens, {minutes:.0f} minutes on {threads} CPU threads |
"""

CARD = """# tiny: a Gemma-2 of {parameters:,} parameters

Made by `python -m temporal_sae.assets.train_tiny` for experiments with sparse autoencoders that
need neither a network nor a GPU. It writes things that look like Python and is good for nothing
else.{spelling}

| fact | value |
|---|---|
| architecture | Gemma-2: 6 layers, d_model 128, 4 heads (2 key-value), MLP 512, tied embedding |
| tokenizer | byte-level BPE, 2048 tokens, `<bos>` and `<eos>` |
| text | sources of the standard library of CPython {python}, files of the training split |
| facts | of the spelling of words, from `word_facts.py` |
| context | {context} tokens |
| cross-entropy at the start | {ce_start:.3f} nats a token |
{rows}\
| held-out cross-entropy after "sources" | {ce_sources:.3f} nats a token |
| **held-out cross-entropy** | **{ce_held_out:.3f} nats a token** on {held_out_tokens:,} tokens |
| held-out bits a byte | {bits_per_byte:.3f} |
| weights | float16 safetensors, seed {seed} |

Stage "sources" reads the text alone, stage "letters" facts alone, stage "both" text and facts.
Held-out files are those of `data=stdlib` (10 % by a hash of the path), never seen in training; they
hold no facts.

The facts are programs whose assertions hold: `assert "word"[0] == "w"`, `list("word")`,
`.startswith`, `ord`, dictionaries by letter, and strings that end with the letter with which they
begin, `"word w"`, which are all of stage "letters". They are of every alphabetic token and of
identifiers of the training files. No line of facts has the form in which `eval=tasks` asks for a
letter, `word: 'W'`, or is any other line of a word and its letter alone.

The text is covered by the PSF licence; the weights carry the licence of this repository.
"""
