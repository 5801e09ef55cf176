"""Plans that need nothing more, and what is said of changed ones."""

from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.eval.saebench.needs import check
from temporal_sae.eval.saebench.options import completed

WORDS = ["has", "the", "first", "letter", ":"]


class Vocabulary:
    """A tokenizer of words and the space before them; what it does not know becomes bytes."""

    def __init__(self, tokens):
        self.tokens = tokens

    def get_vocab(self):
        return {token: n for n, token in enumerate(self.tokens)}

    def encode(self, text, add_special_tokens=True):
        assert not add_special_tokens
        pieces = text.replace(":", " :").split(" ")
        return [p for piece in pieces for p in ([piece] if piece in self.tokens else 2 * piece)]


def vocabulary(per_letter=8, answers="ABCDEFGHIJKLMNOPQRSTUVWXYZ"):
    words = [
        f"{a}{'abcdefgh'[n]}q" for a in "abcdefghijklmnopqrstuvwxyz" for n in range(per_letter)
    ]
    return Vocabulary([*answers, *WORDS, "a", *words])


def problems(*evaluations, options=None, **changes):
    """Lines of the error that `check` raises; none if it raises nothing."""
    given = {
        "model_name": "gemma-2-2b",
        "hook_name": "blocks.3.hook_resid_post",
        "d_in": 64,
        "d_sae": 512,
        "tokenizer": vocabulary(),
        "environment": {},
    }
    every = {e: completed(e, options) for e in evaluations}
    try:
        check(every, **given | changes)
    except InvalidOption as error:
        return [str(error)]
    except RunError as error:
        return str(error).splitlines()
    return []


def only(lines):
    assert len(lines) == 1, lines
    return lines[0]
