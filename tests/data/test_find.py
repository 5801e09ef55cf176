"""A path stands for every file once, for no folder, and for nothing from runs."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from temporal_sae.data.find import TABLES, find_files
from temporal_sae.data.readers import READERS


def names(path, *rest, **options):
    return list(find_files(Path(path), *rest, **options).files)


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "tree"
    for name in ("a.txt", "b.md", "one/c.txt", "one/two/d.txt", ".hidden/e.txt", "one/.f.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("**/*", ["a.txt", "b.md", "one/c.txt", "one/two/d.txt"]),
        ("**", ["a.txt", "b.md", "one/c.txt", "one/two/d.txt"]),
        ("**/*.txt", ["a.txt", "one/c.txt", "one/two/d.txt"]),
        ("*.txt", ["a.txt"]),
        ("*/*.txt", ["one/c.txt"]),
        ("*/**/*.txt", ["one/c.txt", "one/two/d.txt"]),
        ("o?e/[t]wo/*", ["one/two/d.txt"]),
        ("*.rst", []),
    ],
)
def test_a_glob_finds_what_it_means_under_the_names_of_its_folder(tree, pattern, expected):
    assert names(tree / pattern) == expected
    assert set(expected) <= set(names(tree))


def test_a_glob_begins_at_its_longest_folder_without_wildcards(tree):
    assert names(tree / "one" / "*" / "*.txt") == ["two/d.txt"]
    assert find_files(tree / "one" / "*" / "*.txt").root == tree / "one"


def test_pattern_and_exclude_hold_for_folders_and_globs(tree):
    for path in (tree, tree / "**"):
        assert names(path, "*.txt", ["two"]) == ["a.txt", "one/c.txt"]


def test_a_folder_whose_name_looks_like_a_glob(tmp_path):
    (tmp_path / "notes[1]").mkdir()
    (tmp_path / "notes[1]" / "what?.txt").write_text("a")
    assert names(tmp_path / "notes[1]") == ["what?.txt"]
    assert names(tmp_path / "notes[1]" / "what?.txt") == ["what?.txt"]


def test_only_regular_files(tree):
    os.mkfifo(tree / "pipe.txt")
    (tree / "null.txt").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tree / "socket.txt"))
        found = find_files(tree)
    assert list(found.files) == ["a.txt", "b.md", "one/c.txt", "one/two/d.txt"]
    assert found.left_out.summary()["not a regular file"]["count"] == 3


def test_links_are_followed_once(tree, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "g.txt").write_text("g")
    (elsewhere / "back").symlink_to(tree)
    (tree / "also").symlink_to(elsewhere)
    (tree / "again").symlink_to(elsewhere)
    (tree / "A.txt").symlink_to(tree / "a.txt")
    (tree / "one" / "up").symlink_to("..")
    (tree / "itself").symlink_to("itself")
    (tree / "gone.txt").symlink_to("nowhere")
    os.link(tree / "b.md", tree / "c.md")
    for path in (tree, tree / "**"):
        found = find_files(path)
        real = ["a.txt", "again/g.txt", "b.md", "one/c.txt", "one/two/d.txt"]
        assert list(found.files) == real
        left_out = found.left_out.summary()
        assert left_out["linked to nothing"] == {"count": 1, "example": "gone.txt"}
        assert left_out["read under another name"]["count"] == 5
        assert any("itself" in about["example"] for about in left_out.values())


def test_what_runs_and_sweeps_leave_is_not_found(tree):
    own, other, sweep = tree / "own", tree / "outputs" / "1", tree / "multirun" / "2"
    for folder in (own, other, sweep / "0_seed=1"):
        folder.mkdir(parents=True)
        (folder / "notes.md").write_text("written by a run")
    (other / "run.json").write_text(json.dumps({"status": "running", "config": {}}))
    (sweep / "sweep.json").write_text(json.dumps({"jobs": []}))
    (tree / "one" / "run.json").write_text(json.dumps({"somebody": "else"}))
    for path in (tree, tree / "**"):
        found = find_files(path, own=own)
        assert list(found.files) == ["a.txt", "b.md", "one/c.txt", "one/two/d.txt"]
        assert found.left_out.summary()["written by runs"]["count"] == 3


def test_tables_are_left_out_unless_the_pattern_names_them(tree):
    assert set(TABLES) == READERS.keys() - {".txt"}
    for name in ("x.jsonl", "y.CSV", "z.parquet"):
        (tree / name).write_text("{}")
    assert len(names(tree)) == 4
    assert names(tree, "*.jsonl") == ["x.jsonl"]
    assert names(tree, "*.CSV") == ["y.CSV"]
    assert names(tree / "*.jsonl") == []


def test_names_do_not_depend_on_where_the_folder_lies(tree, tmp_path):
    before = [names(tree), names(tree / "**" / "*.txt")]
    moved = tmp_path / "far" / "away"
    shutil.move(tree, moved)
    assert [names(moved), names(moved / "**" / "*.txt")] == before


@pytest.mark.parametrize("path", ["", "nothing", "no*thing", "a\0b", "a\0*/b", "x" * 300, "**"])
def test_paths_without_files(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    assert names(path) == []
