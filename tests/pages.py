"""README.md and docs/ as the tests read them: blocks of code, commands, links."""

import re
import shlex
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:python|temporal-sae|torchrun|pip|mkdocs) [^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A block of code of a page, or for `kind="inline"` a command within its text."""

    page: str
    line: int
    kind: str
    title: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command that a page prints, in words, and the place where it does."""

    place: str
    words: tuple[str, ...]

    @property
    def text(self):
        return " ".join(self.words)


def pages():
    """README.md and the pages of docs/, by their name from the root."""
    paths = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    return {str(path.relative_to(ROOT)): path.read_text() for path in paths}


@cache
def blocks():
    """All blocks of all pages, in order."""
    found = []
    for page, text in pages().items():
        for match in FENCE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(page, line, match[1], match[2] or "", match[3]))
        prose = FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
        for match in INLINE.finditer(prose):
            line = prose.count("\n", 0, match.start()) + 1
            found.append(Block(page, line, "inline", "", " ".join(match[1].split())))
    return found


def commands():
    """Every command of a bash block or within a text, each once, without comments."""
    found = {}
    for block in blocks():
        if block.kind in ("bash", "inline"):
            for line in block.text.replace("\\\n", " ").splitlines():
                for part in re.split(r"\s&&\s", line):
                    words = tuple(shlex.split(part, comments=True))
                    if words and words not in found:
                        found[words] = Command(f"{block.page}:{block.line}", words)
    return list(found.values())


def sessions():
    """(command in words, the output below it) of every console block."""
    for block in blocks():
        if block.kind == "console":
            for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
                typed, _, output = part.partition("\n")
                yield Command(f"{block.page}:{block.line}", tuple(shlex.split(typed))), output


def files_of(page):
    """The text of each file that a page shows whole, by its name."""
    shown = [b for b in blocks() if b.page == page and b.title and b.kind in ("python", "yaml")]
    return {block.title: block.text for block in shown}


def links():
    """(page, target) of every link."""
    for page, text in pages().items():
        for match in LINK.finditer(FENCE.sub("", text)):
            yield page, match[1]


def anchors(text):
    """What the headings of a page are called in addresses."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {slug(heading) for heading in headings}


def slug(heading):
    """A heading as mkdocs writes it."""
    plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())
