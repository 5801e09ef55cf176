"""Snippets: what is cut out of a file, and how it is divided."""

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.eval.tasks.python_sources import KINDS, pieces_of
from temporal_sae.eval.tasks.snippets import (
    SIDES,
    SnippetOptions,
    read_snippets,
    standard_library,
)

SOURCE = '''\
#!/usr/bin/env python
# -*- coding: utf-8 -*-
"""What the module does."""

# ------------
# A block of
#  two lines.
# ------------
x = 1  # beside code: no block

class Box:
    """What a box is."""

    def open(self):
        """How to open it."""
        # why
        lid = "# no comment"  # a comment
        def inner():
            "inner doc"
            return lid

        return inner

    @property
    def size(self): return 2

async def wait():
    text = """
# inside a string
    """
    return text
'''


def pieces(source, kind):
    return [(line, text) for k, line, text in pieces_of(source) if k == kind]


def test_docstrings():
    assert pieces(SOURCE, "docstring") == [
        (3, "What the module does."),
        (12, "What a box is."),
        (15, "How to open it."),
        (19, "inner doc"),
    ]


def test_comments_are_blocks_of_their_own_lines():
    assert pieces(SOURCE, "comment") == [(6, "A block of\n two lines."), (16, "why")]


def test_code_has_no_docstrings_and_no_comments():
    code = dict(pieces(SOURCE, "code"))
    assert code[16] == 'lid = "# no comment"\ndef inner():\n    return lid\n\nreturn inner'
    assert "# inside a string" in code[28]
    assert code[28].startswith('text = """\n')
    assert len(code) == 3  # the inner function belongs to the outer one


def test_a_function_of_a_docstring_alone_has_no_code():
    assert dict(pieces('def f():\n    """Doc."""\n', "code")) == {3: ""}


@given(st.lists(st.sampled_from(["# a", "x = 1", "", "def f():\n    # b\n    return 1"])))
def test_any_file_comes_apart(lines):
    for kind, _, text in pieces_of("\n".join(lines)):
        assert text == text.strip("\n")
        assert "#" not in text
        assert kind in KINDS


def write_library(root, packages=("alpha", "beta", "gamma"), files=8, functions=6):
    for package in packages:
        for n in range(files):
            names = [f"{package}_{n}_{m}" for m in range(functions)]
            text = "\n".join(
                textwrap.dedent(f'''
                    # {name}: a comment that is long enough to be a snippet
                    def {name}():
                        """{name}: a docstring that is long enough to be one."""
                        value = compute_something_long("{name}")
                        return value + 1
                ''')
                for name in names
            )
            file = root / package / f"part_{n}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    return root


OPTIONS = SnippetOptions(n_packages=3, test_share=0.3)


def test_no_file_is_on_both_sides(tmp_path):
    snippets = read_snippets(write_library(tmp_path), OPTIONS)
    files = {
        side: {s.file for (own, _), cell in snippets.cells.items() if own == side for s in cell}
        for side in SIDES
    }
    assert not files["train"] & files["test"]
    assert len(files["train"] | files["test"]) == 24
    assert len(files["test"]) == 6  # of each package's 8 equal files, 2 fit in 0.3


def test_cells_hold_what_they_are_called(tmp_path):
    snippets = read_snippets(write_library(tmp_path), OPTIONS)
    assert snippets.packages == ("alpha", "beta", "gamma")
    assert len(snippets.cells) == 2 * 3 * 3
    for (_, (package, kind)), cell in snippets.cells.items():
        assert {s.kind for s in cell} == {kind}
        assert {s.file.split("/")[0] for s in cell} == {s.package for s in cell} == {package}
    texts = snippets.texts("train", ("alpha", "code"), 0, 2)
    assert all(t.startswith("value = ") and '"""' not in t for t in texts)


def test_the_order_depends_on_the_seed_alone(tmp_path):
    root = write_library(tmp_path)
    first, again = read_snippets(root, OPTIONS), read_snippets(root, OPTIONS)
    assert first == again
    other = read_snippets(root, SnippetOptions(n_packages=3, test_share=0.3, seed=1))
    key = ("train", ("alpha", "code"))
    assert first.cells[key] != other.cells[key]
    assert set(first.cells[key]) == set(other.cells[key])
    # Another package does not change it.
    write_library(root, ("delta",), files=2)
    assert read_snippets(root, OPTIONS) == first


def test_of_equal_texts_one_is_kept_and_a_file_gives_at_most_so_many(tmp_path):
    root = write_library(tmp_path)
    for package in ("alpha", "beta"):
        (root / package / "licence.py").write_text("# the same licence text in each of the files\n")
    texts = [s.text for cell in read_snippets(root, OPTIONS).cells.values() for s in cell]
    assert len(texts) == len(set(texts))
    few = read_snippets(root, SnippetOptions(n_packages=3, test_share=0.3, max_per_file=2))
    assert len(few.cells["train", ("alpha", "code")]) == 6 * 2


def test_what_is_no_package_or_not_everywhere_is_left_out(tmp_path):
    root = write_library(tmp_path, ("alpha", "beta", "idlelib", "test", "site-packages"))
    (root / "single.py").write_text((root / "alpha" / "part_0.py").read_text() * 9)
    (root / "alpha" / "broken.py").write_text("def (:\n")
    (root / "alpha" / "latin.py").write_bytes(b"# \xe9\xe9\xe9\n")
    assert read_snippets(root, SnippetOptions(n_packages=2)).packages == ("alpha", "beta")
    with pytest.raises(RunError, match="the tasks need 3"):
        read_snippets(root, OPTIONS)


def test_too_few_rows_are_told_by_class(tmp_path):
    snippets = read_snippets(write_library(tmp_path), OPTIONS)
    cell = ("beta", "docstring")
    snippets.require("train_rows", 18, "train", cell, 36)
    with pytest.raises(InvalidOption) as error:
        snippets.require("train_rows", 19, "train", cell, 38)
    assert str(error.value) == (
        "train_rows=19: must be lower: it takes 38 train rows of every class, and docstring of "
        "package beta in the standard library has 36"
    )


def test_bad_options():
    for option, value in [("n_packages", 1), ("test_share", 1.0), ("max_per_file", 0)]:
        with pytest.raises(InvalidOption, match=option):
            SnippetOptions(**{option: value})


def test_this_interpreters_library_has_enough_for_the_defaults():
    snippets = standard_library(SnippetOptions())
    assert standard_library(SnippetOptions()) is snippets
    sizes = {kind: [] for kind in KINDS}
    for (side, (_, kind)), cell in snippets.cells.items():
        sizes[kind].append(len(cell) / (2 if side == "train" else 1))
    assert min(sizes["docstring"]) >= 50 and min(sizes["code"]) >= 50
    assert min(sizes["comment"]) >= 30
