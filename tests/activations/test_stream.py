"""From text to batches of activations."""

import copy

import pytest
import torch

from temporal_sae.activations import Harvest
from temporal_sae.data import TextFiles
from temporal_sae.errors import InvalidOption

OPTIONS = {"context_size": 16, "lm_batch_size": 4, "buffer_tokens": 256}


def make_source(model, folder, **options):
    source = Harvest(**{**OPTIONS, **options}, model=model, text=TextFiles(str(folder)))
    source.open()
    return source


def make_stream(model, folder, ordered=False, seed=0, **options):
    return make_source(model, folder, **options).stream(32, seed, ordered)


def test_batches_hold_the_models_activations_without_bos(small_model, text_folder):
    stream = make_stream(small_model, text_folder, normalize=False)
    sequences = stream.reader.source.sequences("train", 0)
    tokens = torch.stack([next(sequences) for _ in range(80)])
    assert (tokens[:, 0] == small_model.tokenizer.bos_token_id).all()
    known = small_model.activations(tokens)[tokens > 1]
    batch = next(stream).x
    assert batch.shape == (32, 16)
    distance = (batch[:, None] - known[None]).norm(dim=-1)
    assert float(distance.min(-1).values.max()) < 1e-4


def test_bos_can_be_kept(small_model, text_folder):
    without, kept = (
        make_stream(small_model, text_folder, exclude=e) for e in (("bos", "separators"), ())
    )
    for stream in (without, kept):
        stream.sample(1)
    assert kept.buffer.count == 4 * 4 * 16
    sequences = kept.reader.source.sequences("train", 0)
    tokens = torch.stack([next(sequences) for _ in range(5 * 4)])
    assert without.buffer.count == int((tokens > 1).sum())


@pytest.mark.parametrize("bos", ["<bos>", "<eos>"])
def test_what_stands_between_documents_is_not_trained_on(small_model, tmp_path, bos):
    """Short documents; with one token for both ends it would be a row of BOS."""
    small_model = copy.copy(small_model)
    small_model.tokenizer = copy.deepcopy(small_model.tokenizer)
    small_model.tokenizer.bos_token = bos
    for n in range(200):
        (tmp_path / f"{n}.txt").write_text(f"x = {n}")
    stream = make_stream(small_model, tmp_path, ordered=True, normalize=False)
    sequences = stream.reader.source.sequences("train", 0)
    rows = torch.cat([part.x for part in next(stream).ordered])
    tokens = torch.stack([next(sequences) for _ in range(24)])
    separators = tokens <= 1  # <bos> and <eos>, which the text cannot hold
    assert separators[:, 1:].float().mean() > 0.1
    expected = small_model.activations(tokens)[~separators]
    assert torch.equal(rows, expected[: len(rows)])
    assert len(rows) >= 256


def test_special_tokens_that_are_written_in_a_text_stay_text(small_model, tmp_path):
    text = "a <bos> b <eos> c <pad> </s> <|endoftext|> " * 20
    (tmp_path / "a.txt").write_text(text)
    sequences = make_source(small_model, tmp_path).sequences("train", 0)
    tokens = torch.cat([next(sequences)[1:] for _ in range(20)])
    assert (tokens > 1).all()
    assert small_model.tokenizer.decode(tokens) == text[: len(small_model.tokenizer.decode(tokens))]


def test_scale_brings_the_mean_square_norm_to_one(small_model, text_folder):
    stream = make_stream(small_model, text_folder)
    x = torch.cat([next(stream).x for _ in range(30)])
    assert float(x.square().sum(-1).mean()) == pytest.approx(1, rel=0.05)
    raw = make_stream(small_model, text_folder, normalize=False)
    assert raw.scale == 1.0
    assert torch.allclose(next(raw).x / stream.scale, x[:32])


def test_ordered_tokens_are_all_tokens_in_text_order(small_model, text_folder):
    stream = make_stream(small_model, text_folder, ordered=True)
    batches = [next(stream) for _ in range(20)]
    ordered = torch.cat([rows.x for b in batches for rows in b.ordered])
    sequences = stream.reader.source.sequences("train", 0)
    acts = []
    while sum(a.shape[0] for a in acts) < ordered.shape[0]:
        tokens = torch.stack([next(sequences) for _ in range(4)])
        acts.append(small_model.activations(tokens)[tokens > 1])
    assert torch.allclose(ordered, torch.cat(acts) / stream.scale, atol=1e-6)
    plain = make_stream(small_model, text_folder)
    assert all(torch.equal(b.x, next(plain).x) for b in batches)


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("n", [0, 1, 7, 40])
def test_continues_to_the_bit(small_model, text_folder, n, ordered):
    stream = make_stream(small_model, text_folder, ordered)
    for _ in range(n):
        next(stream)
    other = make_stream(small_model, text_folder, ordered, seed=0)
    state = stream.state_dict()
    other.load_state_dict(copy.deepcopy(state))
    for _ in range(20):
        a, b = next(stream), next(other)
        for one, same in zip((a.rows, *a.ordered), (b.rows, *b.ordered), strict=True):
            assert torch.equal(one.x, same.x) and torch.equal(one.places, same.places)


def test_seed_decides_the_batches(small_model, text_folder):
    first, same, other = (make_stream(small_model, text_folder, seed=s) for s in (0, 0, 1))
    x = next(first).x
    assert torch.equal(x, next(same).x)
    assert not torch.equal(x, next(other).x)


@pytest.mark.parametrize(
    "options",
    [{"context_size": 1}, {"context_size": 128}, {"buffer_tokens": 31}, {"lm_batch_size": 0}],
)
def test_bad_options(small_model, text_folder, options):
    with pytest.raises(InvalidOption, match=next(iter(options))):
        make_stream(small_model, text_folder, **options)
