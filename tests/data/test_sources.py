"""Text sources: what they find, in which order, and how they divide it."""

import sysconfig
from pathlib import Path

import pytest
from datasets import Dataset

from temporal_sae.data import HubText, StdlibText, TextFiles
from temporal_sae.errors import InvalidOption


@pytest.fixture
def folder(tmp_path):
    for n in range(40):
        (tmp_path / f"{n % 4}").mkdir(exist_ok=True)
        (tmp_path / f"{n % 4}" / f"{n}.txt").write_text(f"text {n}")
    return tmp_path


def texts(source, split="train", seed=0, epoch=0, start=0):
    return [text for _, text in source.documents(split, seed, epoch, start)]


def test_splits_are_disjoint_complete_and_independent_of_other_files(folder):
    source = TextFiles(str(folder), held_out_fraction=0.3)
    train, held_out = texts(source), texts(source, "held_out")
    assert sorted(train + held_out) == sorted(f"text {n}" for n in range(40))
    assert len(held_out) >= 3
    for n in range(20):
        (folder / "0" / f"new{n}.txt").write_text("new")
    grown = TextFiles(str(folder), held_out_fraction=0.3)
    assert set(held_out) <= set(texts(grown, "held_out"))
    assert set(train) <= set(texts(grown))


def test_order_depends_on_seed_and_pass_only(folder):
    source = TextFiles(str(folder))
    assert texts(source) == texts(TextFiles(str(folder)))
    assert texts(source) != texts(source, seed=1)
    assert texts(source) != texts(source, epoch=1)


def test_a_pass_continues_at_any_cursor(folder):
    source = TextFiles(str(folder))
    documents = list(source.documents("train", 0, 0))
    for cursor, _ in documents[::7]:
        rest = [text for c, text in documents if c > cursor]
        assert texts(source, start=cursor) == rest


def test_folder_glob_and_single_file(folder):
    assert len(texts(TextFiles(str(folder / "*" / "1*.txt"), held_out_fraction=0))) == 11
    assert texts(TextFiles(str(folder / "1" / "1.txt"))) == ["text 1"]
    assert len(texts(TextFiles(str(folder), pattern="2*.txt", held_out_fraction=0))) == 11
    assert len(texts(TextFiles(str(folder), exclude=["1", "2"], held_out_fraction=0))) == 20


def test_two_files_give_one_to_each_split(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name)
    source = TextFiles(str(tmp_path), held_out_fraction=0.01)
    assert len(texts(source)) == len(texts(source, "held_out")) == 1


def test_binary_and_hidden_files_are_passed_over(tmp_path):
    (tmp_path / "good").write_text("good")
    (tmp_path / "zero").write_bytes(b"a\0b")
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    (tmp_path / ".hidden").write_text("hidden")
    assert texts(TextFiles(str(tmp_path), held_out_fraction=0)) == ["good"]


def test_long_documents_are_cut(tmp_path):
    (tmp_path / "long").write_text("abcdef")
    assert texts(TextFiles(str(tmp_path), max_document_chars=4)) == ["abcd"]


def test_empty_folder(tmp_path):
    with pytest.raises(InvalidOption, match="path="):
        TextFiles(str(tmp_path))


@pytest.mark.parametrize(
    "options", [{"held_out_fraction": 1.0}, {"held_out_fraction": -1}, {"max_document_chars": 0}]
)
def test_bad_options(options):
    with pytest.raises(InvalidOption, match=next(iter(options))):
        StdlibText(**options)


def test_stdlib_is_python_source_and_nothing_installed_later():
    source = StdlibText()
    files = [*source.splits["train"], *source.splits["held_out"]]
    root = Path(sysconfig.get_path("stdlib"))
    assert root / "json" / "decoder.py" in files
    assert all(f.suffix == ".py" and "site-packages" not in f.parts for f in files)
    assert 0.05 < len(source.splits["held_out"]) / len(files) < 0.15


def test_hub_data_set_from_a_local_folder(tmp_path):
    rows = [f"document {n}" for n in range(200)]
    with_gaps = [*rows[:50], None, "", *rows[50:]]
    Dataset.from_dict({"body": with_gaps}).to_parquet(tmp_path / "data" / "train.parquet")
    source = HubText(str(tmp_path / "data"), text_column="body", held_out_fraction=0.2)
    train, held_out = texts(source), texts(source, "held_out")
    assert sorted(train + held_out) == sorted(rows)
    assert 20 < len(held_out) < 60
    documents = list(source.documents("train", 0, 0))
    cursor = documents[50][0]
    assert texts(source, start=cursor) == [text for _, text in documents[51:]]


def test_hub_shuffles_by_seed(tmp_path):
    Dataset.from_dict({"text": [str(n) for n in range(50)]}).to_parquet(
        tmp_path / "d" / "a.parquet"
    )
    source = HubText(str(tmp_path / "d"), shuffle_buffer=50, held_out_fraction=0)
    first, second = texts(source), texts(source, epoch=1)
    assert first != second
    assert sorted(first) == sorted(second) == sorted(str(n) for n in range(50))


def test_hub_mistakes(tmp_path):
    Dataset.from_dict({"body": ["a"]}).to_parquet(tmp_path / "d" / "a.parquet")
    with pytest.raises(InvalidOption, match="text_column"):
        texts(HubText(str(tmp_path / "d")))
    with pytest.raises(InvalidOption, match="name="):
        texts(HubText(str(tmp_path / "nothing")))
