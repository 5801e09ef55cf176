"""The `eval/` folder: one file per evaluation, and which SAE and options each was made with."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any, TypeVar

from temporal_sae import schemas
from temporal_sae.errors import RunError
from temporal_sae.files import set_aside, write_json

log = logging.getLogger(__name__)

T = TypeVar("T")
DONE = "done.json"


class EvaluationFiles:
    """Writes results and finds those that need not be made again.

    Args:
        folder: `eval/` of a run, or of an SAE that was trained elsewhere.
        identity: what all evaluations here depend on: hash of the weights, model, versions.
    """

    def __init__(self, folder: str | Path, identity: dict[str, Any]) -> None:
        self.folder = Path(folder)
        self._identity = identity

    def digest(self, options: dict[str, Any]) -> str:
        """Hash of an evaluation's options and of what it is applied to."""
        content = json.dumps([self._identity, options], sort_keys=True, default=str)
        return hashlib.sha256(content.encode()).hexdigest()

    def find(self, name: str, options: dict[str, Any], schema: Any) -> dict[str, Any] | None:
        """Return the result called `name` if it is there and was made with the same options.

        Args:
            name: of its file, without ending.
            options: of the evaluation.
            schema: what the file must hold; one that is damaged is set aside.
        """
        if self._done().get(name) != self.digest(options):
            return None
        found: dict[str, Any] | None = read_or_set_aside(self.folder / f"{name}.json", schema)
        return found

    def write(self, name: str, options: dict[str, Any], content: dict[str, Any]) -> None:
        """Save a result; it counts as done once both files are written."""
        self.folder.mkdir(exist_ok=True)
        write_json(self.folder / f"{name}.json", content)
        write_json(self.folder / DONE, {**self._done(), name: self.digest(options)})

    def _done(self) -> dict[str, str]:
        return read_or_set_aside(self.folder / DONE, dict[str, str]) or {}


def read_or_set_aside(path: Path, schema: type[T]) -> T | None:
    """Return the content of a file that can be made again; None where there is none that fits."""
    try:
        return schemas.read(path, schema)
    except FileNotFoundError:
        return None
    except RunError as error:
        aside = set_aside(path)
        log.warning("%s; it is made again, and kept as %s", error, aside.name)
        return None
