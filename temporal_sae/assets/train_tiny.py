"""Train the bundled language model: `python -m temporal_sae.assets.train_tiny [--out FOLDER]`.

A small causal language model of the Gemma-2 architecture with a byte-level BPE of 2048 tokens. It
is large enough for its activations to be worth an SAE and small enough to live in the repository.
It is trained on the sources of the Python standard library, then on facts about the spelling of
words (word_facts.py), and then mostly on the sources again. The held-out files are those of
`data=stdlib`, so neither the model nor an SAE trained on it has seen them.

Hidden matrices are trained by Muon, everything else by AdamW; in each stage the learning rate warms
up, stays, and falls linearly to zero. Needs torch >= 2.9 (for Muon).
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
from typing import NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

from temporal_sae import signals
from temporal_sae.assets import TINY_MODEL, word_facts
from temporal_sae.assets.card import save
from temporal_sae.assets.word_facts import WordFacts
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


class Lesson(NamedTuple):
    """A stage of training: its steps, what a batch holds, and the learning rate.

    Attributes:
        steps: taken.
        sources: sequences of sources in a batch.
        facts: sequences of facts in a batch.
        lr: the largest learning rate.
        decay: share of the steps, the last ones, over which it falls to zero.
    """

    steps: int
    sources: int
    facts: int
    lr: float
    decay: float


# Among much text letters are learned many times more slowly, as everything reads the embedding
# that they change; so they come first, and the text that suffers from it follows.
LETTERS = Lesson(steps=150, sources=0, facts=4, lr=3e-3, decay=0.3)
BOTH = Lesson(steps=900, sources=10, facts=3, lr=2e-3, decay=1.0)


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
        shuffled = sequences[torch.randperm(len(sequences))]
        yield from (batch for batch in shuffled.split(size) if len(batch) == size)


def fact_batches(facts: WordFacts, tokenizer: PreTrainedTokenizerFast, n: int) -> Iterator[Tensor]:
    """Endless batches of `n` sequences of facts."""
    sequences = TokenSequences(facts, tokenizer, CONTEXT)
    while True:
        yield torch.stack(list(itertools.islice(sequences, n)))


def train(
    model: Gemma2ForCausalLM, all_batches: Iterator[Tensor], lesson: Lesson
) -> dict[str, float]:
    """Train in place and return what it took; prints a line every 50 steps.

    Args:
        model: in float32. (bfloat16 is slower on processors without matrices of it.)
        all_batches: int64 [batch, context] each.
        lesson: its steps and learning rate.
    """
    steps = lesson.steps
    optimizers = make_optimizers(model, lesson.lr)

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / 50, (steps - step) / (lesson.decay * steps))

    schedules = [torch.optim.lr_scheduler.LambdaLR(o, rate) for o in optimizers]
    forward = torch.compile(model)
    running, n_tokens, start = 0.0, 0, time.perf_counter()
    for step, tokens in enumerate(itertools.islice(all_batches, lesson.steps)):
        loss = forward(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        running, n_tokens = running + float(loss.detach()), n_tokens + tokens.numel()
        if (step + 1) % 50 == 0:
            speed = n_tokens / (time.perf_counter() - start)
            print(
                f"step {step + 1}/{steps}  ce {running / 50:.3f}  {speed:,.0f} tokens/s", flush=True
            )
            running = 0.0
    minutes = (time.perf_counter() - start) / 60
    return {"tokens": n_tokens, "minutes": minutes, "threads": torch.get_num_threads()}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; a mistake is one line and exit code 2, before any work."""
    let_readers_leave()
    parser = Parser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=TINY_MODEL)
    parser.add_argument("--steps", type=int, default=2400, help="on sources alone")
    parser.add_argument("--batch", type=int, default=16, help="sequences of 256 tokens per step")
    parser.add_argument("--lr", type=float, default=6e-3)
    parser.add_argument("--no-facts", action="store_true", help="stop after the sources")
    parser.add_argument("--start", type=Path, help="a model made with --no-facts, to go on with")
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
    if args.start and not (args.start / "training.json").is_file():
        raise InvalidOption("--start", str(args.start), "a folder that this command has written")
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
    if args.start:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(args.start)
        model = Gemma2ForCausalLM.from_pretrained(
            args.start, dtype=torch.float32, attn_implementation="eager"
        )
    else:
        tokenizer, model = train_tokenizer(source), make_model()
    sequences = all_sequences(source, tokenizer, "train")
    if args.batch > len(sequences):
        raise InvalidOption("--batch", args.batch, f"at most {len(sequences)}, all there are")
    held_out = all_sequences(source, tokenizer, "held_out")
    chosen = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(args.seed))
    test = held_out[chosen[:1000]]
    if args.start:
        before = json.loads((args.start / "training.json").read_text())
        ce_start, stages = before["ce_start"], before["stages"]
    else:
        ce_start = cross_entropy(model, test)
        lesson = Lesson(args.steps, args.batch, 0, args.lr, decay=0.4)
        stages = {"sources": train(model, batches(sequences, args.batch), lesson)}
    ce_sources = cross_entropy(model, test)
    if not args.no_facts:
        facts = word_facts.from_text(source, tokenizer)
        told = fact_batches(facts.only(word_facts.ends), tokenizer, LETTERS.facts)
        stages["letters"] = train(model, told, LETTERS)
        told = fact_batches(facts, tokenizer, BOTH.facts)
        plain = batches(sequences, BOTH.sources)
        both = (torch.cat(parts) for parts in zip(plain, told, strict=False))
        stages["both"] = train(model, both, BOTH)
    ce = cross_entropy(model.half().float(), test)
    text_bytes = len(tokenizer.decode(test[:, 1:].flatten().tolist()).encode())
    record = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "python": platform.python_version(),
        "context": CONTEXT,
        "ce_start": ce_start,
        "ce_sources": ce_sources,
        "stages": stages,
        "ce_held_out": ce,
        "held_out_tokens": test[:, 1:].numel(),
        "bits_per_byte": ce / 0.6931 * test[:, 1:].numel() / text_bytes,
        "seed": args.seed,
    }
    save(model, tokenizer, args.out, record)
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
