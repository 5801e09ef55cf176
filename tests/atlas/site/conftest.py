"""Sites and a browser that looks at them."""

import pytest

from temporal_sae.atlas.site import write_site
from tests.atlas.site import worlds

SIZES = {"wide": (1280, 900), "narrow": (390, 844)}


class Viewer:
    """A page of a browser that goes from view to view of a site."""

    def __init__(self, page, folder):
        self.page, self.folder = page, folder

    def open(self, address=""):
        self.page.goto((self.folder / "index.html").as_uri() + address)
        return self.settled(address)

    def settled(self, address):
        """Wait until a view stands."""
        self.page.wait_for_function(
            "wanted => document.querySelector('main').dataset.view === wanted",
            arg=address or "#latents",
            timeout=10_000,
        )
        return self.page

    def press(self, key, address):
        self.page.keyboard.press(key)
        return self.settled(address)

    def texts(self, selector):
        return [text.strip() for text in self.page.locator(selector).all_inner_texts()]

    def column(self, place):
        """The texts of a column of the first table, from 1."""
        return self.texts(f"main table >> nth=0 >> tbody tr > :nth-child({place})")


@pytest.fixture
def look(chromium):
    """Opens a site at a size and in a scheme; at the end nothing may have gone wrong or out."""
    seen, contexts = {"said": [], "asked": []}, []

    def look(folder, size="wide", scheme="light", expects=()):
        width, height = SIZES[size]
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        contexts.append(context)
        page = context.new_page()

        def note(message):
            if not any(text in message.text for text in expects):
                seen["said"].append(message.text)

        page.on("console", note)
        page.on("pageerror", lambda error: seen["said"].append(str(error)))
        page.on("dialog", lambda dialog: seen["said"].append(dialog.message))
        page.on("request", lambda request: seen["asked"].append(request.url))
        return Viewer(page, folder)

    yield look
    for context in contexts:
        context.close()
    assert seen["said"] == []
    assert [url for url in seen["asked"] if not url.startswith("file:///")] == []


def written(folder, **options):
    atlas, firings = worlds.small_world(folder, **options)
    if not options:
        atlas = worlds.with_everything(folder)
    write_site(atlas, firings, folder)
    return folder


@pytest.fixture(scope="session")
def full(tmp_path_factory):
    """A site with all that can be shown, in a folder whose name has to be escaped."""
    folder = tmp_path_factory.mktemp("full") / "a b#c?d%20ü"
    folder.mkdir()
    return written(folder)


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
    """A site of rows whose tokens nobody knows."""
    return written(tmp_path_factory.mktemp("bare"), is_bare=True)
