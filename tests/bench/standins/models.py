"""Tiny language models whose activations hold the first letter and the topic of a word."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM

from tests.bench.standins.vocabulary import (
    BOS,
    EOS,
    LETTERS,
    N_TOPICS,
    PAD,
    make_tokenizer,
    topic_of,
    words,
)

WIDTH, N_LAYERS = 64, 4
PYTHIA, GEMMA, GEMMA_IT = (
    "EleutherAI/pythia-70m-deduped",
    "google/gemma-2-2b",
    "google/gemma-2-2b-it",
)


def directions() -> tuple[torch.Tensor, torch.Tensor]:
    """Orthonormal directions of the letters [26, WIDTH] and of the topics [16, WIDTH]."""
    noise = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(3))
    basis = torch.linalg.qr(noise).Q.T
    return basis[: len(LETTERS)], basis[len(LETTERS) : len(LETTERS) + N_TOPICS]


def embeddings(tokenizer, scale: float) -> torch.Tensor:
    """Letter and topic of each token, a direction of all, and noise: [vocabulary, WIDTH]."""
    of_letter, of_topic = directions()
    places = {word: place for place, word in enumerate(words())}
    noise = torch.randn(len(tokenizer), WIDTH, generator=torch.Generator().manual_seed(4))
    table = 0.03 * noise + 0.1
    for token, row in tokenizer.get_vocab().items():
        word = token.removeprefix("▁")
        if word.isalpha() and word.isascii():
            table[row] += of_letter[LETTERS.index(word[0].lower())]
        if word in places:
            table[row] += 0.8 * of_topic[topic_of(places[word])]
    return scale * table


@torch.no_grad()
def build_pythia(folder: Path, more_words: tuple[str, ...] = ()) -> None:
    """A GPT-NeoX by the name of Pythia 70m; it expects words of the topic that it has just read."""
    tokenizer = make_tokenizer(more_words)
    torch.manual_seed(0)
    model = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=N_LAYERS,
            num_attention_heads=4,
            max_position_embeddings=2048,
            bos_token_id=BOS,
            eos_token_id=EOS,
            pad_token_id=PAD,
        )
    )
    table = embeddings(tokenizer, scale=4.0)
    model.gpt_neox.embed_in.weight.copy_(table)
    topics = directions()[1]
    model.get_output_embeddings().weight.copy_(table @ topics.T @ topics / 12)
    save(model, tokenizer, folder / PYTHIA)


@torch.no_grad()
def build_gemma(folder: Path, name: str = GEMMA, more_words: tuple[str, ...] = ()) -> None:
    """A Gemma-2 by the name of the 2b; its layers add little to the embedding."""
    tokenizer = make_tokenizer(more_words)
    torch.manual_seed(1)
    model = Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=N_LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            query_pre_attn_scalar=16,
            max_position_embeddings=8192,
            bos_token_id=BOS,
            eos_token_id=EOS,
            pad_token_id=PAD,
            attn_implementation="eager",
        )
    )
    model.model.embed_tokens.weight.copy_(embeddings(tokenizer, scale=1.0))
    for layer in model.model.layers:
        layer.post_attention_layernorm.weight.fill_(-0.9)
        layer.post_feedforward_layernorm.weight.fill_(-0.9)
    save(model, tokenizer, folder / name)


def save(model, tokenizer, folder: Path) -> None:
    """As the hub would hold it."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
