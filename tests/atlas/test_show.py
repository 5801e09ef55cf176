"""`show()` of an atlas and of a run: in a notebook, on a screen, without either."""

import subprocess
import sys
import webbrowser
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
import torch

from temporal_sae import train
from temporal_sae.atlas import Atlas
from temporal_sae.errors import RunError

SMALL = {"d_sae": 16, "k": 2, "progress": False}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run in a folder of the working directory, without an atlas."""
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    return train(torch.randn(1000, 8), folder="my run", **SMALL)


@pytest.fixture
def page(run):
    (run.folder / "atlas").mkdir()
    page = run.folder / "atlas" / "index.html"
    page.write_text("")
    return page


@pytest.fixture
def opened(monkeypatch):
    addresses = []
    monkeypatch.setattr(webbrowser, "open", addresses.append)
    return addresses


def test_without_an_atlas_one_line_names_the_command(run):
    with pytest.raises(RunError) as told:
        run.show()
    assert str(told.value) == (
        "my run/atlas/index.html: is missing; python -m temporal_sae.atlas 'my run/sae' "
        "'--output=my run/atlas' KEY=VALUE… builds it, with keys of the text"
    )
    with pytest.raises(RunError, match=r"index.html: is missing; python -m temporal_sae.atlas"):
        Atlas("my run/atlas").show()


def test_without_a_folder_one_line_says_what_to_do(opened):
    run = train(torch.randn(1000, 8), **SMALL)
    with pytest.raises(RunError, match="folder=FOLDER") as told:
        run.show()
    assert "\n" not in str(told.value)
    assert opened == []


def test_without_a_screen_the_address_is_printed(run, page, opened, capsys):
    assert run.show() == page
    assert Atlas(run.folder / "atlas").show() == page
    printed = capsys.readouterr().out.split()
    assert printed == [page.resolve().as_uri()] * 2
    assert opened == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is always a screen")
@pytest.mark.parametrize("name", ["DISPLAY", "WAYLAND_DISPLAY"])
def test_on_a_screen_it_is_opened(run, page, opened, monkeypatch, name):
    monkeypatch.setenv(name, ":0")
    run.show()
    assert opened == [page.resolve().as_uri()]


def test_in_a_notebook_it_is_a_frame_with_a_relative_address(run, page, opened, monkeypatch):
    shown = []
    display = SimpleNamespace(display=shown.append, HTML=str)
    shell = SimpleNamespace(kernel=object())
    ipython = SimpleNamespace(get_ipython=lambda: shell, display=display)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    assert run.show() == page
    source = shown[0].partition('<iframe src="')[2].partition('"')[0]
    assert unquote(source) == "my run/atlas/index.html"
    assert " " not in source
    assert opened == []
    ipython.get_ipython = lambda: SimpleNamespace()  # IPython in a terminal
    run.show()
    assert len(shown) == 1


def test_opening_a_page_needs_no_import_of_a_notebook():
    code = "import sys, temporal_sae.atlas.show; sys.exit('IPython' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
