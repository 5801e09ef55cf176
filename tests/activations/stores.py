"""Stores for tests, built in a moment from an untrained model."""

from temporal_sae.activations import ActivationStore, LanguageModel
from temporal_sae.data import TextFiles

HOOK = "blocks.1.hook_resid_post"
# Five segments of three shards, the last segment and the last shards of all shorter.
SIZES = {
    "num_tokens": 2200,
    "held_out_tokens": 400,
    "context_size": 16,
    "lm_batch_size": 8,
    "shard_rows": 200,
    "mixing_rows": 500,
    "buffer_tokens": 128,
    "dtype": "float32",
}


def text_of(folder):
    return TextFiles(str(folder), held_out_fraction=0.3)


def options_of(model, folder, **changes):
    """The options of both groups, as a run gives them."""
    options = {
        "model": {"name": str(model), "hook_name": HOOK, "dtype": "float32", **changes},
        "data": {"held_out_fraction": 0.3},
    }
    return options.__getitem__


def builder(path, model, folder, load=None, **options):
    """A source that can build its store."""
    return ActivationStore(
        str(path),
        model=load or (lambda: LanguageModel(str(model), HOOK)),
        text=text_of(folder),
        **{**SIZES, "options_of": options_of(model, folder), **options},
    )


def reader(path, **options):
    """A source that can only read it."""
    return ActivationStore(str(path), **{"buffer_tokens": 128, **options})


def files_in(folder):
    """The content of every file, by its name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
