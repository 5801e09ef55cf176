"""True Python facts about how words are spelled, for a model that is to know letters.

A model that reads tokens never sees the letters in them, and source code seldom tells. These
documents do, in the forms of code: indexing, slices, `startswith`, `list`, `ord`, dictionaries by
letter. Each one is a program whose assertions hold. In strings such as `"word w"` the letter is the
very next token: there the loss asks for it at the word itself. No line is of the form in which the
absorption task asks, a word at the start of a line and its letter as all that follows, so a model
that answers there has learned the letter and not the line.
"""

from __future__ import annotations

import keyword
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

from temporal_sae.data import Split, TextSource
from temporal_sae.data.sources import Cursor

MIN_COUNT = 5  # identifiers of the text that are rarer are left out
TOKEN_SHARE = 0.85  # of words that are single tokens; the others are longer identifiers
LINES = (6, 14)  # of a document
ENDS_SHARE = 0.5  # of documents of `ends` alone; at a twelfth, half of the letters were lost again

CASES: tuple[tuple[Callable[[str], str], str], ...] = (
    (str, ""),
    (str.upper, ".upper()"),
    (str.lower, ".lower()"),
)

Draw = Callable[[], str]
Form = Callable[[Draw, random.Random], str]


class WordFacts(TextSource):
    """A source of documents without end, the same for the same words and seed.

    Args:
        tokens: words that are single tokens, some with a leading space.
        identifiers: longer words.
        forms: of the facts; all where None.
    """

    def __init__(
        self, tokens: Sequence[str], identifiers: Sequence[str], forms: Sequence[Form] | None = None
    ) -> None:
        self.tokens, self.identifiers, self.forms = tokens, identifiers, forms or FORMS

    def only(self, form: Form) -> WordFacts:
        """Return facts of one form, about single tokens."""
        return WordFacts(self.tokens, [], [form])

    def documents(
        self, split: Split, seed: int, epoch: int, start: Cursor = 0
    ) -> Iterator[tuple[Cursor, str]]:
        """Yield documents of one split and pass, beginning at cursor `start`."""
        for number in count(start):
            rng = random.Random(f"{split} {seed} {epoch} {number}")
            yield number + 1, self.document(rng)

    def document(self, rng: random.Random) -> str:
        """Return a program of a few forms, each used for several lines."""
        forms = (
            [ends] if rng.random() < ENDS_SHARE else rng.choices(self.forms, k=rng.randint(1, 3))
        )
        lines = (rng.choice(forms)(self._words(rng), rng) for _ in range(rng.randint(*LINES)))
        return "\n".join(lines) + "\n"

    def _words(self, rng: random.Random) -> Draw:
        def draw() -> str:
            known = rng.random() < TOKEN_SHARE or not self.identifiers
            return rng.choice(self.tokens if known else self.identifiers)

        return draw


def from_text(source: TextSource, tokenizer: Any) -> WordFacts:
    """Return facts about the words of a vocabulary, and the frequent identifiers of a text.

    Args:
        source: the text, whose training split is read.
        tokenizer: all its alphabetic tokens are words, with and without a leading space.
    """
    decoded = {tokenizer.decode([token]) for token in range(len(tokenizer))}
    tokens = sorted(text for text in decoded if re.fullmatch(" ?[A-Za-z]+", text))
    counts: Counter[str] = Counter()
    for _, text in source.documents("train", seed=0, epoch=0):
        counts.update(re.findall(r"\b[A-Za-z]{3,16}\b", str(text)))
    frequent = {word for word, n in counts.items() if n >= MIN_COUNT}
    return WordFacts(tokens, sorted(frequent - decoded))


def one_letter(draw: Draw, rng: random.Random) -> str:
    """`"word"[0] == "w"` and its kin."""
    word = draw()
    spaced = ("[1]", "[1:2]", ".strip()[0]", ".lstrip()[:1]", "[-{n}]")
    ways = spaced if word.startswith(" ") else ("[0]", "[:1]", "[-{n}]", "[0:1]")
    bare = word.strip()
    return f'assert "{word}"{rng.choice(ways).format(n=len(bare))} == "{bare[0]}"'


def other_case(draw: Draw, rng: random.Random) -> str:
    """The first letter as a capital, or small."""
    word = draw()
    bare = word.strip()
    to, letter = rng.choice([("upper", bare[0].upper()), ("lower", bare[0].lower())])
    at = 1 if word.startswith(" ") else 0
    way = rng.choice([f".{to}()[{at}]", f"[{at}].{to}()"])
    return f'assert "{word}"{way} == "{letter}"'


def starts(draw: Draw, rng: random.Random) -> str:
    """`startswith` and `find`."""
    word = draw()
    letter = word.strip()[0]
    strip = ".strip()" if word.startswith(" ") else ""
    ways = (f'.startswith("{letter}")', f'.find("{letter}") == 0', f'.index("{letter}") == 0')
    return f'assert "{word}"{strip}{rng.choice(ways)}'


def code_point(draw: Draw, rng: random.Random) -> str:
    """`ord` of the first letter."""
    word = draw().strip()
    return f'assert ord("{word}"[0]) == ord("{word[0]}") == {ord(word[0])}'


def letters(draw: Draw, rng: random.Random) -> str:
    """All letters, in order."""
    word = draw()
    bare = word.strip()
    strip = ".strip()" if word.startswith(" ") else ""
    spelled = ", ".join(f'"{letter}"' for letter in bare)
    ways = (
        f'assert list("{word}"{strip}) == [{spelled}]',
        f'assert "-".join("{bare}") == "{"-".join(bare)}"',
        f'assert " ".join("{bare}".upper()) == "{" ".join(bare.upper())}"',
        f'assert [*"{word}"{strip}][0] == "{bare[0]}"',
    )
    return rng.choice(ways)


def unpacked(draw: Draw, rng: random.Random) -> str:
    """The first of the unpacked letters."""
    word = draw().strip()
    return f'first, *rest = "{word}"; assert first == "{word[0]}"'


def initials(draw: Draw, rng: random.Random) -> str:
    """First letters of the words of a sentence."""
    words = [draw().strip() for _ in range(rng.randint(3, 6))]
    sentence = " ".join(words)
    change, call = rng.choice(CASES)
    found = ", ".join(f'"{change(word[0])}"' for word in words)
    return f'assert [w[0]{call} for w in "{sentence}".split()] == [{found}]'


def pairs(draw: Draw, rng: random.Random) -> str:
    """Words with their letters, as a dictionary or as tuples."""
    words = list(dict.fromkeys(draw() for _ in range(rng.randint(4, 9))))
    change, call = rng.choice(CASES)
    told = [(word, change(word.strip()[0])) for word in words]
    if rng.random() < 0.5:
        inside = ", ".join(f'"{word}": "{letter}"' for word, letter in told)
        return (
            f"first = {{{inside}}}; assert all(w.strip()[0]{call} == c for w, c in first.items())"
        )
    inside = ", ".join(f'("{word}", "{letter}")' for word, letter in told)
    return f"first = [{inside}]; assert all(w.strip()[0]{call} == c for w, c in first)"


def ends(draw: Draw, rng: random.Random) -> str:
    """Strings that end with the letter with which they begin."""
    words = [draw() for _ in range(rng.randint(6, 14))]
    change, call = rng.choice(CASES)
    inside = ", ".join(f'"{word} {change(word.strip()[0])}"' for word in words)
    return f"assert all(s.strip()[0]{call} == s[-1] for s in ({inside}))"


def names(draw: Draw, rng: random.Random) -> str:
    """Keyword arguments, whose values are their names' letters."""
    words = dict.fromkeys(draw().strip() for _ in range(rng.randint(4, 9)))
    change, call = rng.choice(CASES)
    inside = ", ".join(
        f'{word}="{change(word[0])}"' for word in words if not keyword.iskeyword(word)
    )
    return f"first = dict({inside}); assert all(w[0]{call} == c for w, c in first.items())"


def by_letter(draw: Draw, rng: random.Random) -> str:
    """A dictionary of names, sorted by letter."""
    groups: dict[str, list[str]] = {}
    for word in sorted({draw().strip() for _ in range(rng.randint(6, 12))}):
        groups.setdefault(word[0], []).append(word)
    inside = ", ".join(
        f'"{letter}": [{", ".join(f"{chr(34)}{word}{chr(34)}" for word in words)}]'
        for letter, words in groups.items()
    )
    return f"names = {{{inside}}}; assert all(w[0] == c for c in names for w in names[c])"


def in_order(draw: Draw, rng: random.Random) -> str:
    """Sorted names."""
    words = sorted({draw().strip() for _ in range(rng.randint(5, 12))})
    inside = ", ".join(f'"{word}"' for word in words)
    return f"names = [{inside}]; assert names == sorted(names)"


FORMS = (
    one_letter,
    other_case,
    starts,
    code_point,
    letters,
    unpacked,
    initials,
    pairs,
    ends,
    names,
    by_letter,
    in_order,
)
