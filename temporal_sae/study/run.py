"""Running a study: the sweeps of its settings one after the other, and the table of their runs.

Every run is what `launch.py` would make of the same overrides, in a folder of its own, so that any
of them can be repeated or looked at alone. Runs of one setting and seed read one stream together.
What is finished is not repeated, and keeps no checkpoints, which of thousands of runs fill a disk;
Ctrl-C stops with checkpoints, and the same command goes on.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from temporal_sae.errors import RunError
from temporal_sae.experiment.folder import CHECKPOINTS
from temporal_sae.files import read_json, write_json
from temporal_sae.study.design import FINAL, STAGES, Design, sweep_overrides
from temporal_sae.study.table import Row, rows_of_sweep, write_table
from temporal_sae.study.tuning import choose
from temporal_sae.sweep.status import read_sweep
from temporal_sae.training import Checkpoints


def run_study(design: Design, folder: Path, data: Path, extra: Sequence[str] = ()) -> None:
    """Run what is missing of a study, and write its table.

    Args:
        design: of the study.
        folder: of its sweeps.
        data: of its table, `NAME.csv`, and of the note that fixes its design, `NAME.json`.
        extra: overrides for all runs that change no result, such as a launcher's.

    Raises:
        RunError: the design is not the one that the first run fixed, or jobs have failed.
    """
    fix(design, data)
    rows: list[Row] = []
    for stage in STAGES:
        chosen = choose(design, rows) if stage == FINAL else None
        for setting in design.settings_of(stage):
            own = folder / design.name / setting.name / stage
            overrides = sweep_overrides(design, setting, stage, chosen)
            sweep(own, [*overrides, *extra])
            rows += rows_of_sweep(design, setting, stage, own)
            write_table(data / f"{design.name}.csv", design, rows)
            for job in read_sweep(own):
                Checkpoints(job.folder / CHECKPOINTS).clear()


def sweep(folder: Path, overrides: Sequence[str]) -> None:
    """Run a sweep in a process of its own, which does what is missing in the folder.

    Raises:
        RunError: it has not finished all jobs.
    """
    command = [sys.executable, "-m", "temporal_sae", "-m", f"hydra.sweep.dir={folder}", *overrides]
    code = subprocess.run(command, check=False).returncode
    if code:
        raise RunError(f"{folder}: the sweep has ended with exit code {code}; repeat the command")


def fix(design: Design, data: Path) -> None:
    """Note the design with its hash and the time before the first run, and hold later ones to it.

    Raises:
        RunError: it has been changed since.
    """
    path = data / f"{design.name}.json"
    if not path.exists():
        data.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(path, {"design": design.digest(), "fixed": now})
    found = noted_digest(path)
    if found != design.digest():
        told = f"was fixed as {found}, and is {design.digest()} now"
        raise RunError(f"{path}: the design of the study {told}; choose another --data")


def noted_digest(path: Path) -> str:
    """Return the hash of the design that a note fixes.

    Raises:
        RunError: it cannot be read.
    """
    note = read_json(path)
    if not isinstance(note, dict) or not isinstance(note.get("design"), str):
        raise RunError(f"{path}: holds no hash of a design")
    return str(note["design"])
