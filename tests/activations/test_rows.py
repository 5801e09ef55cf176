"""Every row of a batch is what the language model gives at the place that the row tells."""

import copy

import pytest
import torch

from temporal_sae.activations import Harvest
from temporal_sae.activations.rows import DOCUMENT, POSITION, TOKEN
from temporal_sae.data import TextFiles
from temporal_sae.training import Checkpoints

LM_BATCH_SIZE = 4


class LongAtSomeTokens:
    """A language model whose activations at some tokens are fifty times as long."""

    def __init__(self, model):
        self.inner = model

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def activations(self, tokens):
        return self.inner.activations(tokens) * torch.where(is_long(tokens), 50.0, 1.0)[..., None]


def is_long(tokens):
    return tokens % 7 == 3


@pytest.fixture
def source(small_model, text_folder):
    """Makes a source of text in twelve documents, each longer than a sequence."""

    def make(**options):
        text, model = TextFiles(str(text_folder)), LongAtSomeTokens(small_model)
        options = {"lm_batch_size": LM_BATCH_SIZE, "buffer_tokens": 256, **options}
        made = Harvest(16, normalize=False, model=model, text=text, **options)
        made.open()
        return made

    return make


def by_hand(source, seed, n_batches):
    """Return the model's activations by (document, position), counted in the texts."""
    tokenizer, found = source.model.tokenizer, {}
    stream = []
    for number, (_, text) in enumerate(source.text.documents("train", seed, 0)):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = [*ids, tokenizer.eos_token_id]
        stream += [(token, number, position) for position, token in enumerate(ids)]
    for n in range(n_batches):
        part = stream[n * LM_BATCH_SIZE * 15 : (n + 1) * LM_BATCH_SIZE * 15]
        if len(part) < LM_BATCH_SIZE * 15:
            break
        tokens = torch.tensor([token for token, _, _ in part]).view(LM_BATCH_SIZE, 15)
        with_bos = torch.nn.functional.pad(tokens, (1, 0), value=tokenizer.bos_token_id)
        x = source.model.activations(with_bos)[:, 1:].flatten(0, 1)
        found |= {place[1:]: (place[0], row) for place, row in zip(part, x, strict=True)}
    return found


def misplaced(rows, known):
    """Rows that are not what the model gives at their place."""
    return [
        place
        for x, place in zip(rows.x, rows.places.tolist(), strict=True)
        if known[place[DOCUMENT], place[POSITION]][0] != place[TOKEN]
        or not torch.equal(known[place[DOCUMENT], place[POSITION]][1], x)
    ]


@pytest.mark.parametrize("outliers", ["keep", "drop", "clip"])
@pytest.mark.parametrize(("seed", "n_before"), [(0, 0), (3, 7)])
def test_rows_keep_their_places_through_mixing_dropping_and_a_resume(
    source, tmp_path, outliers, seed, n_before
):
    options = {"outliers": outliers, "outlier_factor": 5.0}
    stream = source(**options).stream(32, seed, ordered=True)
    known = by_hand(source(), seed, n_batches=40)
    batches = [next(stream) for _ in range(n_before)]
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(n_before, stream.state_dict())
    other = source(**options).stream(32, seed, ordered=True)
    other.load_state_dict(checkpoints.load_newest())
    batches += [next(other) for _ in range(20)]
    long = [is_long(batch.rows.places[:, TOKEN]) for batch in batches]
    assert torch.cat(long).any() == (outliers != "drop")
    for batch, of_batch in zip(batches, long, strict=True):
        kept = batch.rows[~of_batch] if outliers == "clip" else batch.rows  # the others are shorter
        assert misplaced(kept, known) == []
        for rows in batch.ordered:
            order = [place[1:] for place in rows.places.tolist()]
            assert order == sorted(order)
    shuffled = [tuple(place[1:]) for batch in batches for place in batch.rows.places.tolist()]
    assert len(set(shuffled)) == len(shuffled)
    assert len({document for document, _ in shuffled}) > 1


def test_the_places_of_special_tokens_are_kept_with_them(source):
    rows = next(source(exclude=()).stream(256, 0)).rows
    at_bos = rows.places[:, TOKEN] == source().model.tokenizer.bos_token_id
    assert at_bos.sum() == pytest.approx(256 / 16, abs=8)
    assert (rows.places[at_bos, POSITION] == -1).all()
    assert (rows.places[~at_bos, POSITION] >= 0).all()


def test_held_out_rows_have_places_in_text_order(source):
    held_out = source()
    parts = list(held_out.held_out(10, LM_BATCH_SIZE))
    places = torch.cat([rows.places for rows in parts])
    (text,) = [text for _, text in held_out.text.documents("held_out", 0, 0)]
    ids = held_out.model.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert places[:, TOKEN].tolist() == ids[: len(places)]
    assert places[:, POSITION].tolist() == list(range(len(places)))
    assert [len(rows.sequences) for rows in parts] == [4, 4, 2]


def of_before_places(state):
    """A state as it was written before rows had places."""
    state = copy.deepcopy(state)
    waiting = {number: rows["x"] for number, rows in state["not_handed_out"].items()}
    cursor = state.pop("reader")
    del cursor["documents"], cursor["tokens"], cursor["offset"]
    cursor["waiting"] = cursor["waiting"][:, TOKEN].long()
    state["buffer"]["rows"] = state["buffer"]["rows"]["x"]
    return {**state, "windows": cursor, "not_handed_out": waiting}


@pytest.mark.parametrize("n_before", [0, 7])
def test_a_checkpoint_of_before_rows_had_places_is_continued(source, n_before):
    stream, other = (source().stream(32, 0, ordered=True) for _ in range(2))
    for _ in range(n_before):
        next(stream)
    other.load_state_dict(of_before_places(stream.state_dict()))
    known = 0
    for _ in range(30):
        expected, batch = next(stream), next(other)
        assert torch.equal(expected.x, batch.x)
        for one, same in zip(expected.ordered, batch.ordered, strict=True):
            assert torch.equal(one.x, same.x)
        unknown = batch.rows.places[:, POSITION] == -1
        assert (batch.rows.places[unknown, DOCUMENT] == -1).all()
        assert torch.equal(
            batch.rows.places[~unknown, TOKEN], expected.rows.places[~unknown, TOKEN]
        )
        known += int((~unknown).sum())
    assert known > 0
