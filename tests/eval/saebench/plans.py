"""Plans that need nothing more, and what is said of changed ones."""

from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.eval.saebench.needs import check
from temporal_sae.eval.saebench.options import completed


class Words:
    """A tokenizer that makes a token of each word and of each colon."""

    def encode(self, text, add_special_tokens=True):
        assert not add_special_tokens
        return text.replace(":", " :").split(" ")


def problems(*evaluations, options=None, **changes):
    """Lines of the error that `check` raises; none if it raises nothing."""
    given = {
        "model_name": "gemma-2-2b",
        "hook_name": "blocks.3.hook_resid_post",
        "d_in": 64,
        "d_sae": 512,
        "tokenizer": Words(),
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
