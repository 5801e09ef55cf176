"""Train the bundled language model: `python -m temporal_sae.assets.train_tiny [--out FOLDER]`.

A small causal language model of the Gemma-2 architecture, trained on the sources of the Python
standard library with a byte-level BPE of 2048 tokens. It is large enough for its activations to be
worth an SAE and small enough to live in the repository. The held-out files are those of
`data=stdlib`, so neither the model nor an SAE trained on it has seen them.

Hidden matrices are trained by Muon, everything else by AdamW; the learning rate warms up, stays,
and falls linearly to zero over the last 40 % of the steps. Needs torch >= 2.9 (for Muon).
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

from temporal_sae import signals
from temporal_sae.assets import TINY_MODEL
from temporal_sae.commands import Parser, fail, let_readers_leave
from temporal_sae.data import Split, StdlibText, TokenSequences
from temporal_sae.errors import InvalidOption, RunError, check_int, check_number

CONTEXT = 256
ARCHITECTURE = Gemma2Config(
    vocab_size=2048,
    hidden_size=128,
    intermediate_size=512,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    query_pre_attn_scalar=32,
    sliding_window=CONTEXT,
    max_position_embeddings=1024,
    attn_implementation="eager",
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=1,
)


def train_tokenizer(source: StdlibText) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE of 2048 tokens on the training split."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=ARCHITECTURE.vocab_size,
        special_tokens=["<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    texts = (text for _, text in source.documents("train", seed=0, epoch=0))
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<eos>"
    )


def all_sequences(source: StdlibText, tokenizer: PreTrainedTokenizerFast, split: Split) -> Tensor:
    """Every sequence of one pass over a split, int64 [n, context]."""
    sequences = TokenSequences(source, tokenizer, CONTEXT, split, repeat=False)
    return torch.stack(list(sequences))


@torch.no_grad()
def make_model() -> Gemma2ForCausalLM:
    """Return an untrained model in which a token is louder than the layers: they start at a fifth.

    Gemma-2 normalises what every layer adds, so that at the usual start twelve random unit vectors
    drown the embedding, and learning is slow.
    """
    model = Gemma2ForCausalLM(ARCHITECTURE)
    model.model.embed_tokens.weight.normal_(std=0.05)
    for layer in model.model.layers:
        layer.post_attention_layernorm.weight.fill_(-0.8)  # the gain is 1 + weight
        layer.post_feedforward_layernorm.weight.fill_(-0.8)
    return model


@torch.no_grad()
def cross_entropy(model: Gemma2ForCausalLM, sequences: Tensor) -> float:
    """Mean next-token cross-entropy in nats."""
    model.eval()
    losses = [float(model(input_ids=b, labels=b).loss) for b in sequences.split(32)]
    model.train()
    return sum(losses) / len(losses)


def make_optimizers(model: Gemma2ForCausalLM, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the embedding and the norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def batches(sequences: Tensor, size: int) -> Iterator[Tensor]:
    """Endless batches; every pass shuffles the sequences of all files anew."""
    while True:
        yield from sequences[torch.randperm(len(sequences))].split(size)


def train(model: Gemma2ForCausalLM, sequences: Tensor, steps: int, batch: int, lr: float) -> None:
    """Train in place; prints a line every 50 steps."""
    optimizers = make_optimizers(model, lr)

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / 50, (steps - step) / (0.4 * steps))

    schedules = [torch.optim.lr_scheduler.LambdaLR(o, rate) for o in optimizers]
    forward = torch.compile(model)
    running, start = 0.0, time.perf_counter()
    full_batches = (b for b in batches(sequences, batch) if len(b) == batch)
    for step, tokens in enumerate(itertools.islice(full_batches, steps)):
        with torch.autocast("cpu", torch.bfloat16):
            loss = forward(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        running += float(loss.detach())
        if (step + 1) % 50 == 0:
            rate_now = (step + 1) * tokens.numel() / (time.perf_counter() - start)
            print(
                f"step {step + 1}/{steps}  ce {running / 50:.3f}  {rate_now:,.0f} tokens/s",
                flush=True,
            )
            running = 0.0


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
    (out / "README.md").write_text(CARD.format(**facts))


CARD = """# tiny: a Gemma-2 of {parameters:,} parameters

Made by `python -m temporal_sae.assets.train_tiny` for experiments with sparse autoencoders that
need neither a network nor a GPU. It writes things that look like Python and is good for nothing
else.

| fact | value |
|---|---|
| architecture | Gemma-2: 6 layers, d_model 128, 4 heads (2 key-value), MLP 512, tied embedding |
| tokenizer | byte-level BPE, 2048 tokens, `<bos>` and `<eos>` |
| text | sources of the standard library of CPython {python}, files of the training split |
| training tokens | {training_tokens:,} ({epochs:.1f} passes), context {context} |
| training time | {minutes:.0f} minutes on {threads} CPU threads |
| cross-entropy at the start | {ce_start:.3f} nats a token |
| **held-out cross-entropy** | **{ce_held_out:.3f} nats a token** on {held_out_tokens:,} tokens |
| held-out bits a byte | {bits_per_byte:.3f} |
| weights | float16 safetensors, seed {seed} |

Held-out files are those of `data=stdlib` (10 % by a hash of the path), never seen in training.
The text is covered by the PSF licence; the weights carry the licence of this repository.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; a mistake is one line and exit code 2, before any work."""
    let_readers_leave()
    parser = Parser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=TINY_MODEL)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=16, help="sequences of 256 tokens per step")
    parser.add_argument("--lr", type=float, default=6e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    with signals.ending():
        try:
            check(args)
            make(args)
        except (InvalidOption, RunError) as error:
            fail(str(error))


def check(args: argparse.Namespace) -> None:
    """Refuse what would fail after minutes of work.

    Raises:
        InvalidOption, RunError: in one line.
    """
    for option, least in (("steps", 1), ("batch", 1), ("seed", 0)):
        check_int(f"--{option}", getattr(args, option), least)
    check_number("--lr", args.lr, above=True)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=args.out).close()
    except OSError as error:
        wanted = "must be a folder that can be written"
        raise RunError(f"--out={args.out}: {wanted} ({error.strerror})") from error


def make(args: argparse.Namespace) -> None:
    """Train, measure and save the model."""
    torch.manual_seed(args.seed)
    source = StdlibText(max_document_chars=None)
    tokenizer = train_tokenizer(source)
    model = make_model()
    sequences = all_sequences(source, tokenizer, "train")
    if args.batch > len(sequences):
        raise InvalidOption("--batch", args.batch, f"at most {len(sequences)}, all there are")
    held_out = all_sequences(source, tokenizer, "held_out")
    test = held_out[torch.randperm(len(held_out))[:1000]]
    ce_start = cross_entropy(model, test)
    start = time.perf_counter()
    train(model, sequences, args.steps, args.batch, args.lr)
    minutes = (time.perf_counter() - start) / 60
    ce = cross_entropy(model.half().float(), test)
    text_bytes = len(tokenizer.decode(test[:, 1:].flatten().tolist()).encode())
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "python": platform.python_version(),
        "training_tokens": args.steps * args.batch * CONTEXT,
        "epochs": args.steps * args.batch / len(sequences),
        "context": CONTEXT,
        "minutes": minutes,
        "threads": torch.get_num_threads(),
        "ce_start": ce_start,
        "ce_held_out": ce,
        "held_out_tokens": test[:, 1:].numel(),
        "bits_per_byte": ce / 0.6931 * test[:, 1:].numel() / text_bytes,
        "seed": args.seed,
    }
    save(model, tokenizer, args.out, facts)
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
