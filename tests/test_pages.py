"""README.md and docs/ beside what they speak of: links, files, keys, rooms, blocks of Python."""

import pydoc
import re

import numpy as np
import pytest

from temporal_sae import renamed
from temporal_sae.commands import CONF
from tests.pages import DOCS, FENCE, ROOT, anchors, blocks, links, pages
from tests.test_plugins import plugins

PAGES = pages()
PYTHON = sorted({b.page for b in blocks() if b.kind == "python" and not b.title})
LOCAL = re.compile(r"(?:temporal_sae|benchmarks|tests|conf|hydra_plugins|docs)/[\w./-]*\w")

__all__ = ["plugins"]


def test_the_readme_is_one_page():
    assert len(PAGES["README.md"].splitlines()) <= 150


def test_every_link_leads_somewhere():
    lost = []
    for page, target in links():
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        if not file.is_file() or (anchor and anchor not in anchors(file.read_text())):
            lost.append(f"{page}: {target}")
    assert lost == []


def test_addresses_outside_are_whole():
    outside = {target for _, target in links() if ":" in target}
    assert outside
    assert [t for t in outside if not re.fullmatch(r"https://[\w.-]+\.\w+(/[\w./-]*)?", t)] == []


def test_every_page_is_in_the_menu_of_the_site():
    menu = set(re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert menu == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}


def named_on_the_api_pages():
    return sorted(
        name
        for path in DOCS.glob("api/*.md")
        for name in re.findall(r"^::: (\S+)$", path.read_text(), re.MULTILINE)
    )


@pytest.mark.parametrize("name", named_on_the_api_pages())
def test_what_an_api_page_shows_is_there_and_tells_of_itself(name):
    assert pydoc.locate(name).__doc__


def test_the_configuration_page_shows_every_file_of_conf():
    shown = re.findall(r'^--8<-- "(.+)"$', PAGES["docs/configuration.md"], re.MULTILINE)
    manual = CONF / "hydra" / "help" / "manual.yaml"  # `--help` itself
    files = [path for path in CONF.rglob("*.yaml") if path != manual]
    assert sorted(shown) == sorted(str(path.relative_to(ROOT)) for path in files)
    titled = re.findall(r'title="(.+)"\n--8<-- "(.+)"', PAGES["docs/configuration.md"])
    assert [(title, path) for title, path in titled if title != path] == []
    assert len(titled) == len(shown)


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_are_there(page):
    named = set(LOCAL.findall(FENCE.sub("", PAGES[page])))
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def test_the_design_has_every_room():
    rooms = {p.parent.name for p in (ROOT / "temporal_sae").glob("*/__init__.py")}
    described = set(re.findall(r"^\*\*`(\w+)/`\*\*", PAGES["docs/design.md"], re.MULTILINE))
    assert rooms == described


def test_the_changelog_has_every_name_that_has_changed():
    changes = (ROOT / "CHANGELOG.md").read_text()
    rows = re.findall(r"^\| `(.+)` \| `(.+)` \|$", changes, re.MULTILINE)
    changed = dict(renamed.KEYS)
    for key, values in renamed.VALUES.items():
        changed |= {
            f"{key}={old}": f"{renamed.KEYS.get(key, key)}={new}" for old, new in values.items()
        }
    assert dict(rows) == changed


@pytest.mark.parametrize("page", PYTHON)
def test_the_blocks_of_a_page_run_one_after_the_other(page, plugins, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "acts").mkdir()
    np.save("acts/0.npy", np.random.default_rng(0).standard_normal((5000, 16), dtype=np.float32))
    names = {}
    for block in blocks():
        if block.page == page and block.kind == "python" and not block.title:
            code = compile(block.text, f"{page}:{block.line}", "exec")
            exec(code, names)
