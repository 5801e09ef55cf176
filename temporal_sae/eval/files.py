"""The `eval/` folder: one file an evaluation, and which SAE and options each was made with."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from temporal_sae.files import write_json

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

    def find(self, name: str, options: dict[str, Any]) -> dict[str, Any] | None:
        """The result called `name` if it is there and was made with the same options."""
        try:
            if self._done().get(name) != self.digest(options):
                return None
            content: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text())
        except (OSError, ValueError):
            return None
        return content

    def write(self, name: str, options: dict[str, Any], content: dict[str, Any]) -> None:
        """Save a result; it counts as done once both files are written."""
        self.folder.mkdir(exist_ok=True)
        write_json(self.folder / f"{name}.json", content)
        write_json(self.folder / DONE, {**self._done(), name: self.digest(options)})

    def _done(self) -> dict[str, str]:
        try:
            done: dict[str, str] = json.loads((self.folder / DONE).read_text())
        except (OSError, ValueError):
            return {}
        return done
