"""Reports as pages: one file each, without scripts, that a browser shows from any disk."""

from __future__ import annotations

import re
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from temporal_sae.assets import PAGE
from temporal_sae.errors import printable
from temporal_sae.report.charts import draw
from temporal_sae.report.figures import Figure

TEMPLATES = Path(__file__).parent / "templates"
CODE = re.compile(r"`([^`]+)`")


def render(template: str, **content: Any) -> str:
    """Return a page; whatever is not made by `charts` is escaped."""
    text: str = (
        _environment()
        .get_template(template)
        .render(style=_style(), code=code, drawn=drawn, **content)
    )
    return "\n".join(printable(line) for line in text.split("\n"))


def drawn(figure: Figure) -> Any:
    """Return the chart of a figure; `charts` escapes what it is given."""
    from markupsafe import Markup

    return Markup(draw(figure.chart))


def code(text: str) -> Any:
    """Return a sentence in which what stands between backquotes is code."""
    from markupsafe import Markup

    return Markup(CODE.sub(r"<code>\1</code>", escape(text)))


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # slow to import

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )


@cache
def _style() -> Any:
    from markupsafe import Markup

    files = (PAGE / "base.css", PAGE / "tables.css", TEMPLATES / "report.css")
    return Markup("\n".join(path.read_text(encoding="utf-8") for path in files))
