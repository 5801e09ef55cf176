"""Rows that are too long: planted ones, and the attention sink of the bundled model."""

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temporal_sae.activations import Harvest, LanguageModel, Rows
from temporal_sae.activations.outliers import Outliers
from temporal_sae.data import StdlibText, TextFiles
from temporal_sae.errors import InvalidOption
from temporal_sae.training import Checkpoints

OPTIONS = {"context_size": 16, "lm_batch_size": 4, "buffer_tokens": 256, "exclude": ()}
ALL = ("keep", "drop", "clip")
LOGGER = "temporal_sae.activations.outliers"


class Planted:
    """A language model whose activations at some tokens are fifty times as long."""

    def __init__(self, model):
        self.inner = model

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def activations(self, tokens):
        planted = (tokens % 7 == 3) | (tokens == self.inner.tokenizer.bos_token_id)
        return self.inner.activations(tokens) * torch.where(planted, 50.0, 1.0)[..., None]


@pytest.fixture
def planted(small_model):
    return Planted(small_model)


@pytest.fixture(scope="module")
def tiny():
    return LanguageModel("tiny", "blocks.3.hook_resid_post")


def make_stream(model, folder, ordered=False, batch_size=32, **options):
    source = Harvest(**{**OPTIONS, **options}, model=model, text=TextFiles(str(folder)))
    source.open()
    return source.stream(batch_size, 0, ordered)


def harvested(stream, n_batches):
    """The rows of the first language-model batches, untreated, in text order."""
    source = stream.reader.source
    sequences, rows = source.sequences("train", 0), []
    for _ in range(n_batches):
        tokens = torch.stack([next(sequences) for _ in range(source.lm_batch_size)])
        rows.append(source.model.activations(tokens))  # BOS included
    return torch.cat([acts.flatten(0, 1) for acts in rows])


def ordered_rows(stream, n):
    """At least n rows in text order, as the activations were: not divided by the scale."""
    rows = []
    while sum(map(len, rows)) < n:
        rows += next(stream).ordered
    return torch.cat([part.x for part in rows]) * stream.scale


def treated(option, factor, rows, more=None):
    """Return the rest of `more`, with the limit that `rows` set."""
    outliers = Outliers(option, factor)
    outliers.measure([rows])
    return outliers.treat(Rows(rows if more is None else more)).x, outliers


def test_by_hand():
    rows = torch.tensor([[3.0, 4.0], [0.0, 5.0], [5.0, 0.0], [30.0, 40.0], [6.0, 8.0]])
    kept, outliers = treated("keep", 2.0, rows)  # norms 5 5 5 50 10, so the limit is 10
    assert torch.equal(kept, rows)
    assert outliers.limit == 10.0
    assert float(outliers.share()) == pytest.approx(1 / 5)  # 10 is not beyond 10
    dropped, outliers = treated("drop", 2.0, rows)
    assert torch.equal(dropped, rows[[0, 1, 2, 4]])
    assert float(outliers.share()) == pytest.approx(1 / 5)
    clipped, outliers = treated("clip", 2.0, rows)
    assert torch.allclose(clipped[3], torch.tensor([6.0, 8.0]))
    assert torch.equal(clipped[[0, 1, 2, 4]], rows[[0, 1, 2, 4]])
    outliers.treat(Rows(rows[:3]))
    assert float(outliers.share()) == pytest.approx(1 / 8)


@given(
    st.integers(1, 40),
    st.integers(0, 999),
    st.floats(1.0, 20.0),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
@settings(max_examples=60, deadline=None)
def test_the_same_rows_are_untouched_whatever_the_option(n, seed, factor, dtype):
    torch.manual_seed(seed)
    rows = (torch.randn(n, 5) * torch.rand(n, 1).mul(8).exp()).to(dtype)
    norms = rows.float().norm(dim=-1)
    short = norms <= factor * norms.median()
    kept, dropped, clipped = (treated(option, factor, rows)[0] for option in ALL)
    assert torch.equal(kept, rows)
    assert torch.equal(dropped, rows[short])
    assert torch.equal(clipped[short], rows[short])
    assert clipped.dtype == dropped.dtype == dtype
    limit = treated("clip", factor, rows)[1].limit
    assert torch.allclose(clipped[~short].float().norm(dim=-1), torch.tensor(limit), rtol=1e-2)
    directions = torch.cosine_similarity(clipped.float(), rows.float())
    assert torch.allclose(directions, torch.ones(n), atol=1e-2)


def test_where_most_rows_are_zero_nothing_is_an_outlier():
    rows = torch.zeros(5, 3)
    rows[0] = 7.0
    for option in ALL:
        same, outliers = treated(option, 2.0, rows)
        assert torch.equal(same, rows)
        assert float(outliers.share()) == 0


def test_norms_beyond_the_range_of_float16_are_measured():
    rows = torch.full((5, 4), 60000.0, dtype=torch.float16)
    assert treated("clip", 1.0, rows)[1].limit == pytest.approx(2 * 60000, rel=1e-3)


@pytest.mark.parametrize("option", ALL)
def test_the_stream_hands_out_treated_rows_in_order(planted, text_folder, option):
    stream = make_stream(planted, text_folder, True, outliers=option, outlier_factor=5.0)
    raw = harvested(stream, 12)
    limit = 5.0 * raw[:256].norm(dim=-1).median()
    expected, outliers = treated(option, 5.0, raw[:256], raw)
    assert 0.05 < float(outliers.share()) < 0.5
    assert stream.outliers.limit is None  # nothing has been harvested
    assert torch.allclose(ordered_rows(stream, len(expected))[: len(expected)], expected)
    assert stream.outliers.limit == pytest.approx(float(limit))


@pytest.mark.parametrize("option", ALL)
def test_batches_hold_treated_rows_and_the_scale_is_theirs(planted, text_folder, option):
    stream = make_stream(planted, text_folder, outliers=option, outlier_factor=5.0)
    held = [next(stream).x for _ in range(30)]
    norms = torch.cat(held).norm(dim=-1) * stream.scale
    assert (float(norms.max()) > 1.01 * stream.outliers.limit) == (option == "keep")
    if option == "clip":
        assert float(norms.max()) == pytest.approx(stream.outliers.limit, rel=1e-5)
    assert float(torch.cat(held).square().sum(-1).mean()) == pytest.approx(1, rel=0.1)
    assert stream.buffer.count >= stream.buffer.capacity - 32


def test_the_scale_without_outliers_is_that_of_the_model_without_them(
    planted, small_model, text_folder
):
    by_option = {o: make_stream(planted, text_folder, outliers=o).scale for o in ALL}
    assert by_option["keep"] > by_option["clip"] > by_option["drop"]
    assert by_option["drop"] == pytest.approx(make_stream(small_model, text_folder).scale, rel=0.1)


@pytest.mark.parametrize("option", ALL)
def test_the_share_is_that_of_all_harvested_rows(planted, text_folder, option):
    stream = make_stream(planted, text_folder, outliers=option, outlier_factor=5.0)
    for _ in range(20):
        next(stream)
    raw = harvested(stream, stream.outliers.n_rows // 64)
    assert len(raw) == stream.outliers.n_rows
    share = stream.metrics()["outlier_share"]
    assert float(share) == pytest.approx(
        float((raw.norm(dim=-1) > stream.outliers.limit).float().mean())
    )
    assert share.device == stream.device


def same(rows, other):
    """Two rows agree in activations and places."""
    return torch.equal(rows.x, other.x) and torch.equal(rows.places, other.places)


def through_a_checkpoint(state, folder):
    """A state as a resumed run finds it on the disk."""
    checkpoints = Checkpoints(folder)
    checkpoints.save(1, state)
    return checkpoints.load_newest()


def assert_continues_to_the_bit(make, n, folder):
    """A stream that is saved after n batches, and one that loads it, hand out the same."""
    stream, other = make(), make()
    for _ in range(n):
        next(stream)
    state = through_a_checkpoint(stream.state_dict(), folder)
    limit = stream.outliers.limit
    other.load_state_dict(state)
    assert other.outliers.limit == limit
    for _ in range(25):
        a, b = next(stream), next(other)
        assert same(a.rows, b.rows)
        assert len(a.ordered) == len(b.ordered)
        assert all(same(p, q) for p, q in zip(a.ordered, b.ordered, strict=True))
        assert torch.equal(stream.metrics()["outlier_share"], other.metrics()["outlier_share"])


@pytest.mark.parametrize("option", ALL)
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("n", [0, 1, 7, 40])
def test_continues_to_the_bit(planted, text_folder, tmp_path, option, ordered, n):
    def make():
        return make_stream(planted, text_folder, ordered, outliers=option, outlier_factor=5.0)

    assert_continues_to_the_bit(make, n, tmp_path / "checkpoints")


@pytest.mark.parametrize("option", ALL)
def test_the_attention_sink_of_the_bundled_model(tiny, text_folder, tmp_path, option):
    """Its activations at BOS are the longest there are, and no others are beyond this limit."""

    def make():
        options = {"outliers": option, "outlier_factor": 1.4, "buffer_tokens": 512}
        return make_stream(tiny, text_folder, True, **options)

    stream = make()
    raw = harvested(stream, 8)
    at_bos = torch.arange(len(raw)) % 16 == 0
    left = ordered_rows(stream, 512)
    limit = stream.outliers.limit
    assert torch.equal(raw.norm(dim=-1) > limit, at_bos)
    assert float(stream.metrics()["outlier_share"]) == pytest.approx(1 / 16)
    expected = raw[~at_bos] if option == "drop" else raw.clone()
    if option == "clip":
        expected[at_bos] *= limit / raw[at_bos].norm(dim=-1, keepdim=True)
    n = min(len(expected), len(left))
    assert torch.allclose(left[:n], expected[:n], atol=1e-4)
    assert_continues_to_the_bit(make, 5, tmp_path / "checkpoints")


def test_keeping_outliers_is_said_aloud_and_once(planted, text_folder, caplog):
    stream = make_stream(planted, text_folder, outlier_factor=5.0)
    with caplog.at_level(logging.INFO, LOGGER):
        for _ in range(20):
            next(stream)
    told, warned = caplog.records
    beyond = int((harvested(stream, 4).norm(dim=-1) > stream.outliers.limit).sum())
    assert told.levelname == "INFO"
    assert f"activations.outliers=keep: limit {stream.outliers.limit:.4g}" in told.message
    assert f"{beyond} of the first 256 rows are beyond it" in told.message
    assert warned.levelname == "WARNING"
    assert "activations.outliers=keep: rows of up to" in warned.message


@pytest.mark.parametrize(("option", "factor"), [("drop", 5.0), ("clip", 5.0), ("keep", 1000.0)])
def test_there_is_no_warning_where_none_is_kept(planted, text_folder, caplog, option, factor):
    with caplog.at_level(logging.INFO, LOGGER):
        next(make_stream(planted, text_folder, outliers=option, outlier_factor=factor))
    (told,) = caplog.records
    assert told.levelname == "INFO"
    assert f"activations.outliers={option}: limit" in told.message


def test_a_continued_stream_measures_nothing_again(planted, text_folder, caplog):
    stream, other = (make_stream(planted, text_folder, outlier_factor=5.0) for _ in range(2))
    state = stream.state_dict()
    caplog.clear()
    with caplog.at_level(logging.INFO, LOGGER):
        other.load_state_dict(state)
        for _ in range(20):
            next(other)
    assert not caplog.records


@pytest.mark.parametrize(
    "options", [{"outliers": "cut"}, {"outlier_factor": 0.5}, {"outlier_factor": "ten"}]
)
def test_bad_options(options):
    with pytest.raises(InvalidOption, match=next(iter(options))):
        Harvest(**options, model=None, text=StdlibText())
