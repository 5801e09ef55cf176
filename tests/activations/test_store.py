"""A store of activations on disk."""

import errno
import itertools
import json
import shutil

import pytest
import torch
import xxhash

from temporal_sae.activations import Harvest
from temporal_sae.activations.store import shards
from temporal_sae.activations.store.care import problems_of
from temporal_sae.activations.store.folder import StoreFolder
from temporal_sae.errors import InvalidOption, RunError
from tests.activations.stores import SIZES, builder, files_in, reader, text_of


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for n in range(12):
        (folder / f"{n}.txt").write_text(f"def function_{n}(x):\n    return x + {n}\n" * 60)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory, random_gemma, texts):
    """A finished store, which no test may change."""
    folder = tmp_path_factory.mktemp("stores") / "store"
    builder(folder, random_gemma, texts).open()
    return folder


@pytest.fixture
def store(built, tmp_path):
    """A copy of it."""
    return shutil.copytree(built, tmp_path / "store")


@pytest.fixture
def harvest(small_model, texts):
    return Harvest(
        SIZES["context_size"], lm_batch_size=8, buffer_tokens=256, model=small_model,
        text=text_of(texts),
    )  # fmt: skip


def rows_by_place(source, n):
    """The first `n` rows or more of a source's reader, by (token, document, position)."""
    found, source_reader = {}, source.reader(0)
    while len(found) < n:
        rows = source_reader.read()
        places = map(tuple, rows.places.tolist())
        found |= dict(zip(places, rows.x, strict=True))
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_pass_has_the_rows_of_the_harvest_and_their_places(
    tmp_path, random_gemma, texts, harvest, dtype
):
    source = builder(tmp_path / "s", random_gemma, texts, dtype=dtype)
    source.open()
    n = SIZES["num_tokens"]
    assert source.rows_in_pass == n
    found = rows_by_place(source, n)
    own = itertools.islice(rows_by_place(harvest, n).items(), n)
    expected = dict(own)
    assert found.keys() == expected.keys()
    for place, x in expected.items():
        error = (found[place].float() - x).abs().max() / x.abs().max()
        assert error <= {"float32": 0, "bfloat16": 2**-8, "int8": 1 / 253}[dtype]


def test_the_text_is_mixed(built):
    """Rows that were neighbours lie far apart in a shard, and the manifest says how far."""
    folder = StoreFolder(built)
    (first, *_), mixing = folder.shards(0), SIZES["mixing_rows"]
    places = folder.load(first)["places"]
    order = (places[:, 1] * 10_000 + places[:, 2]).argsort()
    spread = order.argsort().diff().abs().double().mean()
    assert spread > SIZES["shard_rows"] / 4
    for n in range(folder.n_segments - 1):
        assert mixing / 4 < folder.segment(n)["mixing_width"] < mixing / 2


@pytest.mark.parametrize("n", [0, 1, 7, 40])
def test_continues_to_the_bit(built, n):
    stream, other = (reader(built).stream(32, seed=0) for _ in range(2))
    for _ in range(n):
        next(stream)
    state = stream.state_dict()
    state["buffer"]["rows"] = {k: v.clone() for k, v in state["buffer"]["rows"].items()}
    other.load_state_dict(state)
    for _ in range(80):  # into the second pass
        a, b = next(stream), next(other)
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.rows.places, b.rows.places)


def test_passes_have_the_same_rows_in_another_order(built):
    def places_of(source_reader):
        rows, n = [], 0
        while n < SIZES["num_tokens"]:
            rows.append(source_reader.read())
            n += len(rows[-1])
        return [tuple(p) for r in rows for p in r.places.tolist()]

    one = reader(built).reader(seed=0)
    first, second = places_of(one), places_of(one)
    other = reader(built).reader(seed=1)
    assert first == places_of(other)  # so that it can be read while it is built
    assert sorted(first) == sorted(second)
    assert len({tuple(first), tuple(second), tuple(places_of(other))}) == 3


def test_held_out_rows_are_those_of_the_harvest(built, harvest):
    source = reader(built)
    for n, at_once in ((1000, 7), (5, 2)):
        mine, theirs = (
            [*each.held_out(min(n, 25), at_once)] for each in (source, harvest)
        )  # 400 tokens are 25 sequences
        for a, b in zip(mine, theirs, strict=True):
            assert torch.equal(a.x, b.x)
            assert torch.equal(a.places, b.places)
            assert torch.equal(a.sequences, b.sequences)


def test_a_finished_store_needs_no_model(built, random_gemma, texts):
    def load():
        raise AssertionError("the model is loaded")

    alone, compared = reader(built), builder(built, random_gemma, texts, load=load)
    for source in (alone, compared):
        source.open()
        assert source.d_in == 16
        assert source.metadata()["hook_name"] == "blocks.1.hook_resid_post"
        assert source.why_not("rows") is None
    assert alone.describe() == compared.describe()
    assert "model=NAME" in alone.why_not("language_model")
    assert compared.why_not("text") is None


def test_the_model_is_there_for_evaluations(built, random_gemma, texts, harvest):
    source = builder(built, random_gemma, texts)
    source.open()
    assert source.why_not("language_model") is None
    assert source.model.name == str(random_gemma)
    assert "language model" in source.planned_bytes()
    mine, theirs = (next(each.held_out_rows(0)) for each in (source, harvest))
    assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context_size": 32}, "context_size=32: must be 16 or null"),
        ({"dtype": "int8"}, "dtype='int8': must be float32 or null"),
        ({"num_tokens": 10}, "num_tokens=10: must be 2200 or null"),
        ({"exclude": []}, r"exclude=\[\]: must be \['bos', 'separators'\] or null"),
        ({"seed": 1}, "seed=1: must be 0 or null"),
    ],
)
def test_a_store_of_other_options_is_refused(built, options, message):
    with pytest.raises(InvalidOption, match=message):
        reader(built, **options).open()


def test_a_store_of_another_model_or_text_is_refused(
    built, random_gemma, texts, text_folder, tmp_path
):
    def refused(model=random_gemma, folder=texts, **options):
        named = {"name": str(model), "hook_name": "blocks.1.hook_resid_post", **options}
        groups = {"model": named, "data": {"held_out_fraction": 0.3}}
        source = builder(built, model, folder, options_of=groups.__getitem__)
        try:
            source.open()
        except RunError as error:
            return str(error)
        return None

    other = shutil.copytree(random_gemma, tmp_path / "other")
    assert refused(other) is None  # the same files at another place
    with open(other / "model.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\7")
    assert "a model with other files" in refused(other)
    assert "model.dtype='float32', and not 'bfloat16'" in refused(dtype="bfloat16")
    assert "hook_name='blocks.1" in refused(hook_name="blocks.0.hook_resid_post")
    assert "model.name" in refused("somebody/another-model")
    (text_folder / "more.txt").write_text("more")
    assert "other text" in refused(folder=text_folder)


def test_both_or_neither_of_model_and_text(tmp_path, small_model):
    with pytest.raises(RunError, match="data: is missing"):
        reader(tmp_path, model=small_model)


def test_there_is_no_store(tmp_path, built):
    with pytest.raises(RunError, match=r"holds no store; with model=NAME data=NAME"):
        reader(tmp_path / "none").open()
    (tmp_path / "train-000000-0000.safetensors").write_bytes(b"mine")
    assert not StoreFolder(tmp_path).exists


def test_foreign_files_are_left_alone(tmp_path, random_gemma, texts):
    mine = tmp_path / "train-000000-0000.safetensors"
    mine.write_bytes(b"mine")
    with pytest.raises(RunError, match=r"holds train-000000-0000.safetensors but no manifest"):
        builder(tmp_path, random_gemma, texts).open()
    assert mine.read_bytes() == b"mine"


def test_rows_in_stream_order_are_refused(built):
    with pytest.raises(RunError, match=r"^tracker.stream='ordered': must be shuffled"):
        reader(built).stream(32, 0, ordered=True)


class Killed(BaseException):
    """The process has ended."""


@pytest.mark.parametrize("n_writes", [0, 1, 2, 3, 5, 6, 9, 13])
def test_what_is_half_built_is_continued_to_the_same_bytes(
    built, tmp_path, random_gemma, texts, monkeypatch, n_writes
):
    writes, write = itertools.count(), shards.write_atomically

    def until_killed(path, data):
        if next(writes) == n_writes:
            raise Killed
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_atomically", until_killed)
        with pytest.raises(Killed):
            builder(tmp_path / "s", random_gemma, texts).open()
    assert files_in(tmp_path / "s").keys() < files_in(built).keys()
    builder(tmp_path / "s", random_gemma, texts).open()
    assert files_in(tmp_path / "s") == files_in(built)


def test_mixed_more_narrowly_than_the_model_reads(tmp_path, random_gemma, texts):
    """A forward pass then gives rows of several segments, and the place is inside of it."""
    options = {"mixing_rows": 30, "shard_rows": 20, "num_tokens": 400, "held_out_tokens": 0}
    for name in ("at_once", "in_parts"):
        builder(tmp_path / name, random_gemma, texts, **options).open()
        if name == "in_parts":
            for segment in (3, 4, 9):
                (tmp_path / name / f"segment-{segment:06d}.json").unlink()
                (tmp_path / name / f"train-{segment:06d}-0001.safetensors").unlink()
            builder(tmp_path / name, random_gemma, texts, **options).open()
    assert files_in(tmp_path / "at_once") == files_in(tmp_path / "in_parts")
    with pytest.raises(RunError, match="holds no held-out rows"):
        reader(tmp_path / "at_once").check("held_out")


def cut(path):
    path.write_bytes(path.read_bytes()[:-50])


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def lengthened(path):
    with open(path, "ab") as file:
        file.truncate(10**6)


DAMAGES = {
    "cut off": (cut, "its checksum is another"),
    "a bit": (flipped, "its checksum is another"),
    "too long": (lengthened, "it has 1,000,000 bytes"),
    "missing": (lambda path: path.unlink(), "it is missing"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "it cannot be read"),
}


@pytest.mark.parametrize("name", ["train-000002-0001", "held_out-000001"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_shard_is_told_or_built_again(store, built, random_gemma, texts, kind, name):
    damage, told = DAMAGES[kind]
    path = store / f"{name}.safetensors"
    damage(path)

    def read(source):
        rows = rows_by_place(source, SIZES["num_tokens"])
        return len(rows), sum(len(held) for held in source.held_out(100, 10))

    with pytest.raises(RunError, match=rf"{name}\.safetensors: is damaged: {told}.*; with model="):
        read(reader(store))
    if path.is_dir():
        path.rmdir()
    assert read(builder(store, random_gemma, texts)) == read(reader(built))
    assert files_in(store) == files_in(built)


def test_a_full_disk_is_one_line(tmp_path, random_gemma, texts, monkeypatch):
    writes, write = itertools.count(), shards.write_atomically

    def full(path, data):
        if next(writes) == 4:
            path.with_name(".unfinished-x").write_bytes(data[:10])
            path.with_name(".unfinished-x").unlink()
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr(shards, "write_atomically", full)
    with pytest.raises(RunError, match=r"the disk is full; what is written is whole"):
        builder(tmp_path / "s", random_gemma, texts).open()
    monkeypatch.undo()
    with pytest.raises(RunError, match="is unfinished"):
        reader(tmp_path / "s").stream(32, 0).sample(1)
    builder(tmp_path / "s", random_gemma, texts).open()


def test_what_does_not_fit_is_refused_before_any_work(tmp_path, random_gemma, texts):
    with pytest.raises(RunError, match=r"the store takes [\d,]+ MiB, and [\d,]+ are free; lower"):
        builder(tmp_path / "s", random_gemma, texts, num_tokens=10**14).open()
    assert not StoreFolder(tmp_path / "s").exists


MANIFESTS = {
    "no JSON": "{",
    "another version": {"version": 2},
    "no width": {"d_in": 0},
    "a wide one": {"d_in": 2**40},
    "a list": [],
    "nothing held out": {"metadata": None},
}
KEYS = {
    **{"num_tokens": 0, "mixing_rows": -1, "shard_rows": 2**60, "dtype": "float64", "exclude": 3},
    "context_size": 2**40,
}


@pytest.mark.parametrize("kind", [*MANIFESTS, *KEYS])
def test_a_manifest_that_anybody_may_have_written(store, kind):
    path = store / "manifest.json"
    manifest = json.loads(path.read_text())
    change = MANIFESTS.get(kind)
    if kind in KEYS:
        change = {"key": {**manifest["key"], kind: KEYS[kind]}}
    content = {**manifest, **change} if isinstance(change, dict) else change
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(RunError, match=r"manifest.json: cannot be read") as error:
        reader(store).open()
    assert "\n" not in str(error.value)


def test_a_manifest_that_claims_shards_without_end(store):
    path = store / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["key"] |= {"num_tokens": 2**40, "mixing_rows": 1000}
    path.write_text(json.dumps(manifest))
    told = r"manifest.json: cannot be read \(key: [\d,]+ shards are claimed, and 1,048,576 are"
    with pytest.raises(RunError, match=told):
        reader(store).open()
    with pytest.raises(RunError, match=told):
        [*problems_of(StoreFolder(store))]


def test_shards_without_end_are_not_begun(tmp_path, random_gemma, texts):
    sizes = {"num_tokens": 2**21, "mixing_rows": 1, "held_out_tokens": 0}
    with pytest.raises(RunError, match=r"has 2,097,152 shards, .*; raise activations.shard_rows"):
        builder(tmp_path / "s", random_gemma, texts, **sizes).open()
    assert not StoreFolder(tmp_path / "s").exists


def with_header(store, name, record, change):
    """Give a shard another header, and its record the checksum that goes with it."""
    path, record = store / f"{name}.safetensors", store / f"{record}.json"
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(change(json.loads(data[8:begin]))).encode()
    data = len(header).to_bytes(8, "little") + header + data[begin:]
    path.write_bytes(data)
    content = json.loads(record.read_text())
    content["shards"][0]["xxh3"] = xxhash.xxh3_128_hexdigest(data)
    record.write_text(json.dumps(content))


def of_x(**about):
    return lambda header: {**header, "x": {**header["x"], **about}}


@pytest.mark.parametrize(
    "change",
    [
        lambda header: [],
        lambda header: [header],
        lambda header: {**header, "x": []},
        of_x(data_offsets=[-8, 3]),
        of_x(data_offsets=[-8, 200 * 16 * 4 - 8]),
        of_x(data_offsets=[2**40, 2**40 + 200 * 16 * 4]),
        of_x(data_offsets=[0, 0]),
        of_x(data_offsets=[0]),
        of_x(shape=[-200, -16]),
    ],
)
def test_a_header_that_anybody_may_have_written(store, change):
    with_header(store, "train-000000-0000", "segment-000000", change)
    [problem] = problems_of(StoreFolder(store))
    assert problem.endswith("train-000000-0000.safetensors: it holds no tensors")


def test_held_out_sequences_of_another_length(store):
    def halved(header):
        n, length = header["sequences"]["shape"]
        return {**header, "sequences": {**header["sequences"], "shape": [2 * n, length // 2]}}

    with_header(store, "held_out-000000", "held_out", halved)
    [problem] = problems_of(StoreFolder(store))
    assert problem.endswith("it holds other sequences than its rows are of")


def test_a_damaged_record_of_held_out_shards_is_built_again(store, built, random_gemma, texts):
    (store / "held_out.json").write_text("{")
    with pytest.raises(RunError, match=r"held_out.json: is damaged: .*; with model=NAME"):
        reader(store).open()
    builder(store, random_gemma, texts).open()
    assert files_in(store) == files_in(built)


def test_a_place_in_the_store_that_does_not_exist_is_refused(built):
    rows = reader(built).reader(0)
    for epoch, group, block in ((0, 8, 0), (0, 0, 2), (0, -1, 0), (-1, 0, 0), (0, 0, -1)):
        with pytest.raises(RunError, match="at which the checkpoint goes on, does not exist"):
            rows.load_state_dict({"epoch": epoch, "group": group, "block": block})


@pytest.mark.parametrize(
    "content",
    [
        {"shards": [{"rows": 2**50, "xxh3": ""}], "mixing_width": 1.0, "next": {}},
        {"shards": [], "mixing_width": 1.0, "next": {"reader": {}, "skip": 0}},
        [],
    ],
)
def test_records_that_anybody_may_have_written(store, content):
    (store / "segment-000000.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"is damaged: .*cannot be read"):
        reader(store).reader(0).read()


@pytest.mark.parametrize("content", [{"shards": [{"rows": 2**50, "xxh3": ""}]}, {}, []])
def test_a_record_of_held_out_shards_that_anybody_may_have_written(store, content):
    (store / "held_out.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match="cannot be read"):
        reader(store).open()


def test_a_place_that_leads_nowhere(store, random_gemma, texts):
    record = json.loads((store / "segment-000001.json").read_text())
    for place in ({}, {"epoch": "x"}, {**record["next"]["reader"], "waiting": "much"}):
        record["next"]["reader"] = place
        (store / "segment-000001.json").write_text(json.dumps(record))
        (store / "segment-000002.json").unlink(missing_ok=True)
        with pytest.raises(RunError, match="no place in the text"):
            builder(store, random_gemma, texts).open()


def test_the_memory_of_a_store(built):
    """Two shards are given in turn, and two are read meanwhile, each with room for a header."""
    source = reader(built)
    source.open()
    rows = 4 * 200 * (16 * 4 + 12)
    assert rows < source.planned_bytes()["open shards"].n_bytes <= rows + 4 * 2**16
    assert source.dtype == torch.float32
