"""The command is killed in the middle of the pass and of the tables, and given again."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from temporal_sae.atlas.__main__ import main
from temporal_sae.experiment import run_experiment
from temporal_sae.files import TEMPORARY
from tests.test_cli import small
from tests.test_config_surface import composed

ROOT = Path(__file__).parents[2]
TABLES = ("pairs", "latents", "examples", "tokens")
OPTIONS = ("--tokens=40000", "--window-size=500", "--min-count=3")
# Notes after every read, or nothing would be left of so short a pass.
COMMAND = """
import sys, time
from temporal_sae.atlas import build, gather, pairs
from temporal_sae.atlas.__main__ import main
gather.SECONDS_BETWEEN_NOTES = -1
replace = pairs.os.replace
pairs.os.replace = lambda *paths: [time.sleep(0.3), replace(*paths)]
main(sys.argv[1:])
"""


def whole(folder):
    """Every table, in which NaN is equal to NaN."""
    return {name: str(pq.read_table(folder / f"{name}.parquet").to_pydict()) for name in TABLES}


@pytest.mark.slow
def test_kills_change_nothing(random_gemma, tmp_path):
    options = [o for o in small(random_gemma) if not o.startswith("eval.")]
    run = tmp_path / "run"
    run_experiment(composed(*options, "eval=none"), run, options)
    main([str(run), *OPTIONS, f"--output={tmp_path / 'undisturbed'}"])
    output = tmp_path / "killed"
    command = [sys.executable, "-c", COMMAND, str(run), *OPTIONS, f"--output={output}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    sizes = output / "firings" / "sizes.bin"
    chance = random.Random(5)
    gathered = [chance.uniform(first, first + 0.2) * 4 * 40000 for first in (0.1, 0.4, 0.7)]
    moments = [
        *(lambda n=n: sizes.exists() and sizes.stat().st_size > n for n in gathered),
        lambda: (output / f"{TEMPORARY}pairs.parquet").exists(),
        lambda: (output / "pairs.parquet").exists(),
    ]
    for has_come in moments:
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
        while not has_come():
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.001)
        process.kill()
        process.wait()
    subprocess.run(command, env=environment, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert whole(output) == whole(tmp_path / "undisturbed")
    assert not list(output.rglob(f"{TEMPORARY}*"))
