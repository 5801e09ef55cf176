"""Text sources: what they find, in which order, and how they divide it."""

import logging
import os
import shutil

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


def test_what_is_left_out_is_said_in_one_line(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "good").write_text("good")
    (tmp_path / "zero").write_bytes(b"a\0b")
    for name in ("latin", "latin\udce9", "latin\n"):
        (tmp_path / name).write_bytes("é".encode("latin-1"))
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    (tmp_path / ".hidden").write_text("hidden")
    source = TextFiles(str(tmp_path), held_out_fraction=0)
    assert texts(source) == ["good"]
    assert caplog.messages == [
        "text: 1 file(s), 0.0 MiB; left out: 1 .parquet read by data=hub (rows.parquet), "
        "1 binary (zero), 1 empty (empty), 3 not UTF-8 (such as latin)"
    ]
    assert source.left_out()["not UTF-8"] == {"count": 3, "example": "latin"}


def test_what_shows_only_when_a_file_is_read_is_counted_then(tmp_path):
    (tmp_path / "good").write_text("good")
    (tmp_path / "late").write_bytes(b"a" * 70_000 + b"\xff")
    source = TextFiles(str(tmp_path), held_out_fraction=0)
    assert source.left_out() == {}
    assert texts(source) == texts(source, epoch=1) == ["good"]
    assert source.left_out() == {"not UTF-8": {"count": 1, "example": "late"}}
    only = TextFiles(str(tmp_path / "good"), held_out_fraction=0)
    (tmp_path / "good").unlink()
    assert texts(only) == []
    assert only.left_out() == {
        "cannot be read (No such file or directory)": {"count": 1, "example": "good"}
    }


def test_files_without_text_do_not_change_the_order_of_the_others(folder):
    source = TextFiles(str(folder), held_out_fraction=0)
    without = [text for text in texts(source) if text not in ("text 5", "text 6")]
    (folder / "1" / "5.txt").write_bytes(b"")
    (folder / "2" / "6.txt").write_bytes(b"\xff")
    assert texts(TextFiles(str(folder), held_out_fraction=0)) == without


def test_names_that_are_not_utf8(tmp_path):
    for n in range(3):
        (tmp_path / os.fsdecode(b"caf\xe9%d" % n)).write_text(f"text {n}")
    source = TextFiles(str(tmp_path))
    assert sorted(texts(source) + texts(source, "held_out")) == ["text 0", "text 1", "text 2"]


@pytest.mark.parametrize("pattern", ["", "**/*.txt"])
def test_the_split_does_not_depend_on_where_the_folder_lies(folder, tmp_path_factory, pattern):
    """Forty files, so that a hash of the absolute path would hardly give the same ones."""

    def held_out(where):
        source = TextFiles(str(where / pattern), held_out_fraction=0.4)
        return sorted(texts(source, "held_out"))

    before = held_out(folder)
    assert before == sorted(texts(TextFiles(str(folder), held_out_fraction=0.4), "held_out"))
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "moved"
    shutil.copytree(folder, elsewhere)
    assert held_out(elsewhere) == before


def test_a_single_file_gives_both_splits(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    book = "".join(f"line {n} of the book\n" for n in range(4000))
    (tmp_path / "book.txt").write_text(book)
    source = TextFiles(str(tmp_path / "book.txt"))
    train, held_out = texts(source), texts(source, "held_out")
    assert len("".join(train + held_out)) == len(book)
    assert set("".join(train).splitlines()).isdisjoint("".join(held_out).splitlines())
    assert held_out
    assert f"of which {len(held_out)} are held out" in caplog.text
    assert texts(source, start=3) == train[3:]
    assert sorted(texts(source, seed=1)) == sorted(train) != texts(source, seed=1)
    assert texts(TextFiles(str(tmp_path), held_out_fraction=0)) == [book]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b"{}", "rows.jsonl.*data=hub data.name=FILE.*data.pattern='[*].jsonl'"),
        ("letter", "é".encode("latin-1"), r"left out: 1 not UTF-8 \(letter\)"),
        ("nothing", b"", r"left out: 1 empty \(nothing\)"),
        ("late", b"a" * 70_000 + b"\xff", r"left out: 1 not UTF-8 \(late\)"),
    ],
)
def test_a_file_or_folder_without_any_text_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidOption, match=f"path=.*{message}"):
        TextFiles(str(tmp_path / name))


def test_long_documents_are_cut(tmp_path):
    (tmp_path / "long").write_text("abcdef")
    assert texts(TextFiles(str(tmp_path), max_document_chars=4)) == ["abcd"]


@pytest.mark.parametrize("path", ["{tmp}", "", None, "~nobody_here/x", "a\0b", ["a"]])
def test_no_files(tmp_path, path):
    with pytest.raises(InvalidOption, match="path="):
        TextFiles(path.format(tmp=tmp_path) if isinstance(path, str) else path)


def test_the_folder_of_the_run_is_no_text(tmp_path):
    (tmp_path / "notes.md").write_text("text")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.md").write_text("written by the run")
    source = TextFiles(str(tmp_path), held_out_fraction=0, folder=tmp_path / "run")
    assert texts(source) == ["text"]
    assert texts(TextFiles(str(tmp_path / "notes.md"), folder=tmp_path)) == ["text"]
    with pytest.raises(InvalidOption, match="outside the run's own folder"):
        TextFiles(str(tmp_path), folder=tmp_path)
    with pytest.raises(InvalidOption, match=r"name=.*the run's own folder"):
        HubText(str(tmp_path), folder=tmp_path / "run")


@pytest.mark.parametrize(
    "options",
    [
        {"held_out_fraction": 1.0},
        {"held_out_fraction": -1},
        {"max_document_chars": 0},
        {"pattern": 5},
        {"pattern": None},
        {"exclude": "drafts"},
        {"exclude": [5]},
        {"exclude": None},
    ],
)
def test_bad_options(folder, options):
    with pytest.raises(InvalidOption, match=next(iter(options))):
        TextFiles(str(folder), **options)


def test_stdlib_is_python_source_and_nothing_installed_later():
    source = StdlibText()
    files = [*source.splits["train"], *source.splits["held_out"]]
    assert "json/decoder.py" in files
    assert all(name.endswith(".py") and "site-packages" not in name for name in files)
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
