"""The pages of an atlas, opened from Python: in a notebook, or in a browser."""

from __future__ import annotations

import os
import sys
import webbrowser
from html import escape
from importlib import import_module
from pathlib import Path
from urllib.parse import quote

from temporal_sae.errors import RunError

PAGE = "index.html"
HEIGHT = 720  # pixels of the frame in a notebook


def show_pages(folder: Path, advice: str) -> Path:
    """Show the pages in a folder; returns the path of the first.

    A notebook gets a frame and a link, both relative to the working directory, which a server of
    notebooks can follow. Elsewhere the address is printed, and opened where there is a screen.

    Args:
        folder: of the atlas.
        advice: a sentence on what builds the pages.

    Raises:
        RunError: there are none.
    """
    page = folder / PAGE
    if not page.is_file():
        raise RunError(f"{page}: is missing; {advice}")
    if is_notebook():
        show_frame(page)
        return page
    address = page.resolve().as_uri()
    sys.stdout.write(f"{address}\n")
    if has_screen():
        webbrowser.open(address)
    return page


def is_notebook() -> bool:
    """Return whether the code runs in a cell of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")


def show_frame(page: Path) -> None:
    """Show a page in a frame below the cell."""
    display = import_module("IPython.display")
    address = escape(quote(Path(os.path.relpath(page)).as_posix()))
    frame = f'<iframe src="{address}" width="100%" height="{HEIGHT}" style="border:0"></iframe>'
    link = f'<a href="{address}" target="_blank">{escape(str(page))}</a>'
    display.display(display.HTML(f"{frame}<br>{link}"))


def has_screen() -> bool:
    """Return whether a browser would open a window; over ssh it would take the terminal."""
    return sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
