"""Pooled activations of texts."""

import pytest
import torch

from temporal_sae.activations import Harvest
from temporal_sae.data import StdlibText
from temporal_sae.eval.tasks.activations import CellActivations, pool, pooled_texts, tokenize
from temporal_sae.eval.tasks.snippets import Snippet, Snippets
from temporal_sae.latents import Latents
from temporal_sae.sae import TopKSAE

TEXTS = ["def f(x):", "return x + 1", "import os\nimport sys\n" * 9, "a"]
CELL = ("alpha", "code")


@pytest.fixture
def source(small_model):
    return Harvest(context_size=16, model=small_model, text=StdlibText())


@pytest.fixture
def sae():
    return TopKSAE(16, 64, k=4)


def test_tokens_begin_with_bos_are_cut_and_padded(small_model, source):
    ids, counted = tokenize(TEXTS, source)
    tokenizer = small_model.tokenizer
    assert ids.shape == counted.shape == (4, 16)
    assert (ids[:, 0] == tokenizer.bos_token_id).all()
    assert not counted[:, 0].any()
    for text, row, own in zip(TEXTS, ids, counted, strict=True):
        expected = tokenizer(text, add_special_tokens=False)["input_ids"][:15]
        assert row[own].tolist() == expected


def test_without_bos_all_tokens_are_text(small_model):
    bare = Harvest(context_size=16, prepend_bos=False, model=small_model, text=StdlibText())
    tokens = tokenize(TEXTS, bare)
    text = small_model.tokenizer(TEXTS[2], add_special_tokens=False)["input_ids"][:16]
    assert tokens.ids[2].tolist() == text
    assert tokens.lengths.tolist() == tokens.counted.sum(1).tolist()


def test_means_are_those_of_each_text_alone(small_model, source, sae):
    pooled = pooled_texts(TEXTS, sae, source)
    for n, text in enumerate(TEXTS):
        ids = small_model.tokenizer(text, add_special_tokens=False)["input_ids"][:15]
        sequence = torch.tensor([[small_model.tokenizer.bos_token_id, *ids]])
        x = small_model.activations(sequence)[0, 1:]
        assert torch.allclose(pooled.x[n], x.mean(0), atol=1e-5)
        assert torch.allclose(pooled.f[n], sae.encode_dense(x).mean(0), atol=1e-5)


def test_a_text_without_tokens_is_zero(sae):
    x = torch.randn(2, 3, 16)
    pooled = pool(x, torch.tensor([[True, True, False], [False, False, False]]), sae)
    assert torch.allclose(pooled.x[0], x[0, :2].mean(0))
    assert pooled.x[1].abs().max() == 0 and pooled.f[1].abs().max() == 0


def test_latents_by_hand():
    class Fixed:
        d_sae, W_dec = 4, torch.zeros(4, 1)

        def encode(self, x):
            # Token 0: latents 1 and 3; token 1: latent 1 and an empty slot; token 2: none.
            values = torch.tensor([[2.0, 1.0], [4.0, 0.0], [0.0, 0.0]])
            return Latents(values, torch.tensor([[1, 3], [1, -1], [-1, -1]]))

    counted = torch.tensor([[True, True], [False, True]])
    assert pool(torch.zeros(2, 2, 1), counted, Fixed()).f.tolist() == [[0, 3, 0, 0.5], [0] * 4]


@pytest.fixture
def snippets():
    texts = [f"value_{n} = compute(" + "x" * (3 * n) + ")" for n in range(11)]
    own = tuple(Snippet(t, "alpha", "code", "alpha/a.py", n) for n, t in enumerate(texts))
    return Snippets(("alpha",), {("train", CELL): own})


def test_rows_do_not_depend_on_what_is_asked_for_first(source, sae, snippets):
    def made():
        return CellActivations(snippets, sae, source, batch_texts=4)

    whole = made().rows("train", CELL, 11)
    piecewise = made()
    for n in (3, 9, 11):
        part = piecewise.rows("train", CELL, n)
        assert torch.equal(part.x, whole.x[:n]) and torch.equal(part.f, whole.f[:n])
    expected = pooled_texts(snippets.texts("train", CELL), sae, source)
    assert torch.allclose(whole.x, expected.x, atol=1e-5)


def test_a_table_knows_its_cells(source, sae, snippets):
    cells = {("train", CELL): snippets.cells["train", CELL]}
    cells["train", ("beta", "code")] = snippets.cells["train", CELL][::-1]
    both = Snippets(("alpha", "beta"), cells)
    activations = CellActivations(both, sae, source, batch_texts=4)
    table = activations.table("train", [("beta", "code"), CELL], 5)
    assert table.x.shape == (10, 16) and table.f.shape == (10, 64)
    assert table.of(CELL).tolist() == [5, 6, 7, 8, 9]
    assert table.of(CELL, ("beta", "code"), at_most=2).tolist() == [5, 6, 0, 1]
    assert torch.equal(table.x[table.of(CELL)], activations.rows("train", CELL, 5).x)
