"""The folder of a run that `train` has begun: what was asked for, and what came out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict  # pydantic knows that of typing from Python 3.12 on

from temporal_sae import schemas
from temporal_sae.errors import InvalidOption, RunError
from temporal_sae.experiment.folder import CHECKPOINTS, FREE_IN, differing_keys, flatten
from temporal_sae.files import write_json
from temporal_sae.training import Checkpoints
from temporal_sae.training.loggers import METRICS, Metrics

CALL = "train.json"
FREE_TO_CHANGE = FREE_IN["trainer"]


class Call(TypedDict):
    """`train.json`: the options of a call, as far as they decide what is trained."""

    batch_size: int
    held_out_rows: int


class CallFolder:
    """A folder in which a call writes, and from which the same call goes on.

    Args:
        path: the folder; is made if it is missing.
        afresh: whether what is there does not matter.

    Raises:
        InvalidOption, RunError: it is none, cannot be written, or holds another's checkpoints.
    """

    def __init__(self, path: Any, afresh: bool) -> None:
        if not isinstance(path, (str, Path)):
            raise InvalidOption("folder", path, "the path of a folder, or None to write nothing")
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            told = f"must be a folder that can be written ({error.strerror})"
            raise RunError(f"{self.path}: {told}") from error
        self.checkpoints = Checkpoints(self.path / CHECKPOINTS)
        self.earlier: Call | None = None
        if afresh or not self.checkpoints.files():
            return
        try:
            self.earlier = schemas.read(self.path / CALL, Call)
        except FileNotFoundError as error:
            told = f"holds checkpoints but no {CALL}, so no run of train(); choose another folder"
            raise RunError(f"{self.path}: {told}") from error

    def begin(self, call: Mapping[str, Any]) -> None:
        """Note what is asked for.

        Raises:
            RunError: the folder holds a run with other options.
        """
        wanted = {key: as_json(v) for key, v in call.items() if key not in FREE_TO_CHANGE}
        if self.earlier is None:
            write_json(self.path / CALL, wanted)
        elif changed := differing_keys(flatten({**self.earlier}), flatten(wanted)):
            raise RunError(
                f"{self.path}: holds a run with other options ({'; '.join(changed[:3])}); "
                "choose another folder"
            )

    def history(self) -> list[Metrics]:
        """Return the metrics of all logged steps, those of earlier parts of the run too."""
        lines = (self.path / METRICS).read_text().splitlines()
        return [json.loads(line) for line in lines]


def as_json(value: Any) -> Any:
    """Return an option as JSON holds it; of an object its class."""
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [as_json(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value) if isinstance(value, Path) else type(value).__qualname__
