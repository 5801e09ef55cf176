"""The package as it is without its sources: built, installed, and used from another folder."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_cli import small

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the wheel's content and its scripts."""
    pytest.importorskip("setuptools")
    sources, target = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("installed")
    for name in ("temporal_sae", "hydra_plugins", "conf"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", sources, sources],
        check=True,
    )
    wheel = next(sources.glob("*.whl"))
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True)
    return target


@pytest.fixture
def run(installed, tmp_path):
    """Runs a command in an empty folder; returns (exit code, stdout, stderr)."""

    def run(*words):
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_the_script_explains_itself_and_answers_mistakes(run, installed):
    script = installed / "bin" / "temporal-sae"
    code, out, err = run(script, "--help")
    assert (code, err) == (0, "")
    assert "USAGE" in out
    code, _, err = run(script, "tracker.windw_size=3")
    assert code == 2, err
    assert err.startswith("error: tracker.windw_size: unknown key; the nearest valid key is")
    assert err.count("\n") == 1


def test_the_pages_of_an_atlas_come_with_it(installed):
    own, found = (
        {path.name for path in (root / "temporal_sae" / "atlas" / "site" / "assets").iterdir()}
        for root in (ROOT, installed)
    )
    assert found == own


def test_a_run_and_its_evaluation(run, installed, random_gemma, tmp_path):
    script = installed / "bin" / "temporal-sae"
    # Without the tracker, whose kernels would have to be compiled.
    plain = ["tracker=off", "loss.ortho_weight=0", "eval=none"]
    code, _, err = run(script, *small(random_gemma, plain), *plain, "hydra.run.dir=mine")
    assert code == 0, err
    record = json.loads((tmp_path / "mine" / "run.json").read_text())
    assert Path(record["command"].split()[0]).name == "temporal-sae"
    few = ["eval.n_reconstruction_sequences=8", "eval.n_sparsity_sequences=8"]
    code, _, err = run("-m", "temporal_sae.eval", "mine", "eval=core", *few)
    assert code == 0, err
    assert (tmp_path / "mine" / "eval" / "core.json").exists()
