"""A Python source file taken apart: code of functions, docstrings, comments."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Iterator
from typing import Literal, NamedTuple

Kind = Literal["code", "docstring", "comment"]
KINDS: tuple[Kind, ...] = ("code", "docstring", "comment")

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
NOT_PROSE = re.compile(r"#!|#\s*-\*-")


class Piece(NamedTuple):
    """A part of a file: what it is, the line it begins in, and its text."""

    kind: Kind
    line: int
    text: str


def pieces_of(source: str) -> Iterator[Piece]:
    """Docstrings, then code, then comments, each in the order of the file.

    Raises:
        SyntaxError, ValueError: not Python that this interpreter reads.
    """
    source = source.replace("\r\n", "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that will be errors some day
        tree = ast.parse(source)
    lines = source.split("\n")  # not splitlines: a form feed does not end a line for the parser
    nodes = list(ast.walk(tree))
    docstrings = [node.body[0] for node in nodes if has_docstring(node)]  # type: ignore[attr-defined]
    for node in nodes:
        if has_docstring(node):
            text = ast.get_docstring(node) or ""  # type: ignore[arg-type]
            yield Piece("docstring", node.body[0].lineno, text.strip())  # type: ignore[attr-defined]
    documentation = {n for d in docstrings for n in range(d.lineno, d.end_lineno + 1)}
    for function in outermost_functions(tree):
        start = first_line(function)
        yield Piece("code", start, code_text(lines, start, function.end_lineno, documentation))
    yield from comment_blocks(lines, inside_strings(nodes))


def has_docstring(node: ast.AST) -> bool:
    """Return whether a node has a docstring."""
    return isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None


def outermost_functions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions and methods; what is defined inside them belongs to them."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FUNCTIONS):
            yield child
        elif not isinstance(child, ast.expr):
            yield from outermost_functions(child)


def first_line(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the line after the signature and the docstring."""
    first = function.body[0]
    if has_docstring(function):
        return (first.end_lineno or first.lineno) + 1
    decorators = getattr(first, "decorator_list", [])
    return min([first.lineno, *(d.lineno for d in decorators)])


def code_text(lines: list[str], start: int, end: int | None, documentation: set[int]) -> str:
    """Lines `start` to `end` without docstrings and comments, moved to the left."""
    numbers = range(start, (end or start) + 1)
    block = ["" if n in documentation else lines[n - 1] for n in numbers]
    removed = {i for i, n in enumerate(numbers) if n in documentation}
    if any("#" in line for line in block):
        for row, column in comment_starts(block):
            block[row] = block[row][:column].rstrip()
            if not block[row]:
                removed.add(row)
    kept = [line for i, line in enumerate(block) if i not in removed]
    text = "\n".join(kept).strip("\n")
    margin = text[: len(text) - len(text.lstrip())]
    return re.sub(rf"^{margin}", "", text, flags=re.MULTILINE).rstrip()


def comment_starts(block: list[str]) -> list[tuple[int, int]]:
    """(row from 0, column) of each comment; nothing where the block is not whole."""
    tokens = tokenize.generate_tokens(io.StringIO("\n".join(block) + "\n").readline)
    try:
        found = [t.start for t in tokens if t.type == tokenize.COMMENT]
    except (tokenize.TokenError, IndentationError):
        raise ValueError("a function that does not stand alone") from None
    return [(row - 1, column) for row, column in found]


def inside_strings(nodes: list[ast.AST]) -> set[int]:
    """Lines that begin inside a string, where a `#` starts no comment."""
    strings = [n for n in nodes if isinstance(n, (ast.Constant, ast.JoinedStr))]
    return {line for s in strings for line in range(s.lineno + 1, (s.end_lineno or s.lineno) + 1)}


def comment_blocks(lines: list[str], inside: set[int]) -> Iterator[Piece]:
    """Consecutive lines that hold nothing but a comment; rulers and magic lines are no text."""
    block: list[str] = []
    start = 0
    for number, line in enumerate([*lines, ""], start=1):
        comment = line.strip()
        if comment.startswith("#") and number not in inside:
            start = start if block else number
            if re.search(r"\w", comment) and not NOT_PROSE.match(comment):
                block.append(re.sub(r"^#+:? ?", "", comment))
        elif block:
            yield Piece("comment", start, "\n".join(block))
            block = []
