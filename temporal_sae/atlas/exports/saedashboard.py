"""SAEDashboard's batch files, which Neuronpedia's converter reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from temporal_sae.atlas.exports.contents import Contents, Example, Latent
from temporal_sae.atlas.exports.origin import Origin
from temporal_sae.atlas.exports.rows import DashboardBatch, DashboardExample, DashboardFeature
from temporal_sae.atlas.exports.shown import bounds, shown

FIRST = "batch-0.json"


def write_saedashboard(
    folder: Path,
    contents: Contents,
    origin: Origin,
    batch_size: int,
    show: Callable[[int], None] = lambda n: None,
) -> None:
    """Fill a folder with a file for every so many latents; arguments as of `write_neuronpedia`."""
    for n, latents in enumerate(contents.batches(batch_size)):
        batch: DashboardBatch = {
            "model_id": origin.model_id,
            "layer": origin.layer,
            "sae_set": origin.source_set,
            "sae_id_suffix": None,
            "features": [feature(contents, origin, latent) for latent in latents],
        }
        text = json.dumps(batch, ensure_ascii=False, allow_nan=False)
        (folder / f"batch-{n}.json").write_bytes(text.encode("utf-8", "replace"))
        show(latents[-1].number + 1)


def feature(contents: Contents, origin: Origin, latent: Latent) -> DashboardFeature:
    """Return what the file holds of a latent."""
    return {
        "feature_index": latent.number,
        "n_prompts_total": origin.n_prompts or 0,
        "n_tokens_in_prompt": origin.tokens_in_prompt or 0,
        "dataset": origin.dataset or "",
        "activations": [activation(example) for example in latent.examples],
        **shown(contents, latent),
    }


def activation(example: Example) -> DashboardExample:
    """Return what the file holds of an example."""
    lowest, highest, share = bounds(example)
    return {
        "bin_min": lowest,
        "bin_max": highest,
        "bin_contains": share,
        "tokens": example.tokens,
        "values": example.values,
        "qualifying_token_index": example.place,
    }
