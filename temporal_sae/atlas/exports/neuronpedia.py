"""Neuronpedia's import format: a folder for each SAE, with a JSON object in every line."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from temporal_sae.atlas.explanations import Explained
from temporal_sae.atlas.exports.contents import Contents, Example, Latent, plain
from temporal_sae.atlas.exports.origin import Origin
from temporal_sae.atlas.exports.rows import (
    Activation,
    Explanation,
    Feature,
    Model,
    Release,
    Source,
    SourceSet,
)
from temporal_sae.atlas.exports.shown import bounds, shown
from temporal_sae.atlas.folder import LATENTS

SOURCE = "source.jsonl"
STEER_STRENGTH = 10.0  # the default of Neuronpedia's table
COMPRESSION = 5
LENGTH_OF_ID = 24


def write_neuronpedia(
    folder: Path,
    contents: Contents,
    origin: Origin,
    batch_size: int,
    show: Callable[[int], None] = lambda n: None,
) -> None:
    """Fill a folder with the files of an SAE.

    Args:
        folder: is empty.
        contents: of the atlas.
        origin: see there.
        batch_size: latents in a file.
        show: is told how many latents are done.
    """
    names = Names(contents, origin)
    write_lines(folder / "release.jsonl", [names.release()])
    write_lines(folder / "model.jsonl", [names.model()])
    write_lines(folder / "sourceset.jsonl", [names.source_set()])
    write_lines(folder / SOURCE, [names.source()])
    explained = contents.atlas.explanations
    for part in ("features", "activations", *(["explanations"] if explained else [])):
        (folder / part).mkdir()
    for n, latents in enumerate(contents.batches(batch_size)):
        batch = f"batch-{n}.jsonl.gz"
        features = (names.feature(latent) for latent in latents)
        examples = (names.activation(x, e) for x in latents for e in x.examples)
        write_lines(folder / "features" / batch, features)
        write_lines(folder / "activations" / batch, examples)
        own = [e for e in explained if latents[0].number <= e["latent"] <= latents[-1].number]
        if own:
            write_lines(folder / "explanations" / batch, map(names.explanation, own))
        show(latents[-1].number + 1)


class Names:
    """The rows of an SAE, which all name it, its model and its creator.

    Args:
        contents: of the atlas.
        origin: see there.
    """

    def __init__(self, contents: Contents, origin: Origin) -> None:
        self.contents, self.origin = contents, origin
        made = (contents.atlas.folder / LATENTS).stat().st_mtime
        self.time = datetime.fromtimestamp(int(made), UTC).isoformat()

    def feature(self, latent: Latent) -> Feature:
        """Return the row of a latent."""
        origin, columns = self.origin, latent.columns
        return {
            "modelId": origin.model_id,
            "layer": origin.source_id,
            "index": str(latent.number),
            "creatorId": origin.creator_id,
            "createdAt": self.time,
            "maxActApprox": columns["max_activation"],
            "hasVector": bool(latent.vector),
            "vectorLabel": None,
            "vectorDefaultSteerStrength": STEER_STRENGTH,
            "hookName": origin.hook_name,
            "topkCosSimIndices": columns["nearest_by_cosine"],
            "topkCosSimValues": columns["nearest_cosines"],
            "sourceSetName": origin.source_set,
            "umap_x": None,
            "umap_y": None,
            "umap_cluster": None,
            "umap_log_feature_sparsity": None,
            **shown(self.contents, latent),
        }

    def activation(self, latent: Latent, example: Example) -> Activation:
        """Return the row of an example; the same example has the same id, and no other has it."""
        origin, values = self.origin, example.values
        highest = max(values)
        lowest, most, share = bounds(example)
        place = origin.model_id, origin.source_id, latent.number, example.group, example.rank
        content = np.asarray(values).tobytes() + "\0".join(example.tokens).encode(
            "utf-8", "replace"
        )
        return {
            "id": id_of(json.dumps([*place, example.origin]).encode() + content),
            "tokens": example.tokens,
            "index": str(latent.number),
            "layer": origin.source_id,
            "modelId": origin.model_id,
            "maxValue": highest,
            "maxValueTokenIndex": values.index(highest),
            "minValue": min(values),
            "values": values,
            "creatorId": origin.creator_id,
            "dataSource": origin.dataset,
            "dataIndex": example.origin,
            "dfaValues": [],
            "dfaTargetIndex": None,
            "dfaMaxValue": None,
            "lossValues": [],
            "logitContributions": None,
            "binMin": lowest,
            "binMax": most,
            "binContains": share,
            "qualifyingTokenIndex": example.place,
        }

    def explanation(self, explained: Explained) -> Explanation:
        """Return the row of an explanation."""
        origin = self.origin
        row: Explanation = {
            "id": "",
            "modelId": origin.model_id,
            "layer": origin.source_id,
            "index": str(explained["latent"]),
            "description": plain(explained["description"]),
            "authorId": origin.creator_id,
            "typeName": explained["typeName"],
            "explanationModelName": explained["explanationModelName"],
            "notes": None,
            "scoreV2": explained["score"],
        }
        row["id"] = id_of(json.dumps(row).encode())
        return row

    def source(self) -> Source:
        """Return the row of the SAE."""
        origin = self.origin
        return {
            "id": origin.source_id,
            "modelId": origin.model_id,
            "setName": origin.source_set,
            "creatorId": origin.creator_id,
            "hasDashboards": True,
            "inferenceEnabled": False,
            "saelensConfig": origin.sae_config,
            "saelensRelease": None,
            "saelensSaeId": None,
            "hfRepoId": origin.hf_repo,
            "hfFolderId": origin.hf_folder,
            "visibility": origin.visibility,
            "hasUmap": False,
            "hasUmapLogSparsity": False,
            "hasUmapClusters": False,
            "num_prompts": origin.n_prompts,
            "num_tokens_in_prompt": origin.tokens_in_prompt,
            "dataset": origin.dataset,
            "notes": f"exact counts over {self.contents.n_tokens} tokens (temporal_sae)",
            "createdAt": self.time,
        }

    def source_set(self) -> SourceSet:
        """Return the row of the set that the SAE is of."""
        origin = self.origin
        return {
            "modelId": origin.model_id,
            "name": origin.source_set,
            "creatorId": origin.creator_id,
            "creatorName": origin.creator_name,
            "releaseName": origin.release,
            "description": origin.title,
            "visibility": origin.visibility,
            "showCorrelated": True,  # φ is among them
            "urls": [],
            "createdAt": self.time,
        }

    def model(self) -> Model:
        """Return the row of the language model, which an import leaves alone where it is known."""
        origin = self.origin
        return {
            "id": origin.model_id,
            "displayNameShort": origin.model_id,
            "displayName": origin.model_id,
            "creatorId": origin.creator_id,
            "visibility": origin.visibility,
            "layers": origin.layer + 1,  # at least
            "neuronsPerLayer": 0,
            "owner": origin.owner,
            "createdAt": self.time,
            "updatedAt": self.time,
        }

    def release(self) -> Release:
        """Return the row of the release that the set is of."""
        origin = self.origin
        return {
            "name": origin.release,
            "description": origin.title,
            "descriptionShort": origin.title,
            "creatorId": origin.creator_id,
            "creatorName": origin.creator_name,
            "creatorNameShort": origin.creator_name,
            "urls": [],
            "visibility": origin.visibility,
            "createdAt": self.time,
        }


def id_of(content: bytes) -> str:
    """Return an id that follows from the content of a row, so that a second import adds nothing."""
    return "c" + hashlib.sha256(content).hexdigest()[:LENGTH_OF_ID]


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON object a line, compressed if the name ends so; the same rows, the same bytes."""
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    data = "".join(lines).encode("utf-8", "replace")
    is_compressed = path.suffix == ".gz"
    path.write_bytes(gzip.compress(data, COMPRESSION, mtime=0) if is_compressed else data)
