"""Compiled kernels find a place where neither the code nor a home can be written."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numba
import pytest

import temporal_sae
from temporal_sae.kernels import cache_folder

NOWHERE = Path("/proc/nowhere")


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """An empty folder for temporary files, and numba as if it had not been told of any."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv(cache_folder.VARIABLE, "")
    return tmp_path


def test_a_place_that_can_be_written_is_left_to_numba(temporary, monkeypatch):
    monkeypatch.setattr(cache_folder, "places", lambda: [NOWHERE, temporary / "home" / "numba"])
    cache_folder.ensure_cache()
    assert os.environ[cache_folder.VARIABLE] == numba.config.CACHE_DIR == ""


def test_without_one_the_cache_is_among_the_temporary_files(temporary, monkeypatch):
    monkeypatch.setattr(cache_folder, "places", lambda: [NOWHERE])
    cache_folder.ensure_cache()
    folder = Path(numba.config.CACHE_DIR)
    assert folder.parent == temporary
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert os.environ[cache_folder.VARIABLE] == str(folder)
    cache_folder.ensure_cache()
    assert str(folder) == numba.config.CACHE_DIR


@pytest.mark.parametrize("made", ["open", "link", "file"])
def test_a_folder_that_somebody_else_may_have_filled_is_not_used(temporary, made):
    expected = cache_folder.private_folder()
    expected.rmdir()
    if made == "open":
        expected.mkdir()
        expected.chmod(0o777)
    elif made == "link":
        (temporary / "theirs").mkdir()
        expected.symlink_to(temporary / "theirs")
    else:
        expected.touch()
    folder = cache_folder.private_folder()
    assert folder != expected
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && exec "$2" -c "$3"'
COMPILE = """
import torch
from temporal_sae.kernels import windows
print(windows.sorted_rows(torch.tensor([[3, 1, 2]]), 4).tolist())
"""


@pytest.mark.slow
def test_read_only_code_without_a_home_compiles(tmp_path):
    copied = tmp_path / "code" / "temporal_sae"
    ignore = shutil.ignore_patterns("__pycache__", "assets")
    shutil.copytree(Path(temporal_sae.__file__).parent, copied, ignore=ignore)
    (tmp_path / "tmp").mkdir()
    environment = {
        **{
            k: v
            for k, v in os.environ.items()
            if k not in ("XDG_CACHE_HOME", cache_folder.VARIABLE)
        },
        "PYTHONPATH": str(copied.parent),
        "HOME": str(NOWHERE),
        "TMPDIR": str(tmp_path / "tmp"),
    }
    words = ["unshare", "--mount", "sh", "-c", READ_ONLY, "-", str(copied), sys.executable, COMPILE]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, cwd=tmp_path)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("mounting is for root")
    assert done.stdout == "[[1, 2, 3]]\n", done.stderr
    assert list((tmp_path / "tmp").glob("*/*/*.nbi"))
