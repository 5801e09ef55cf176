"""A site of 18432 latents, and how fast pages stand: sizes in bytes, times in Chromium."""

import statistics

import pytest

from temporal_sae.atlas.site import write_site
from tests.atlas.site import worlds

FIRST_LOAD = 1.5e6  # bytes
LATENT_MS, PAIR_MS = 100, 300
BUSY = 3  # times as long while other tests run beside
N_LATENTS = 18432

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    atlas, firings = worlds.large_world(folder, N_LATENTS)
    write_site(atlas, firings, folder)
    return folder


@pytest.fixture
def viewer(look, large):
    return look(large)


def loaded(folder, urls):
    """Bytes of the files with these addresses."""
    names = {url.partition("?")[0].partition(f"{folder.name}/")[2] for url in urls}
    return sum((folder / name).stat().st_size for name in names)


def test_the_first_load_is_small(viewer, large):
    urls = []
    viewer.page.on("request", lambda request: urls.append(request.url.partition("#")[0]))
    viewer.open()
    viewer.page.wait_for_timeout(200)
    assert sum("site/overview.js" in url for url in urls) == 1
    assert loaded(large, urls) <= FIRST_LOAD


def milliseconds(viewer, address):
    """Return how long a view takes from the change of the address to its last element."""
    viewer.page.evaluate(f"atlas.go('{address}')")
    viewer.settled(address)
    return float(viewer.page.locator("main").get_attribute("data-milliseconds"))


def test_any_latent_and_any_pair_open_at_once(viewer):
    viewer.open()
    latents = [milliseconds(viewer, f"#latent/{n}") for n in range(7, N_LATENTS, 1531)]
    assert statistics.median(latents) <= BUSY * LATENT_MS
    ends = [(n, N_LATENTS - n) for n in range(5, N_LATENTS, 1531)]
    pairs = [milliseconds(viewer, f"#pair/{i}/{j}") for i, j in ends]
    assert statistics.median(pairs) <= BUSY * PAIR_MS


def test_the_table_sorts_and_searches_while_one_types(viewer):
    page = viewer.open()
    for key in ("density", "burstiness"):
        assert milliseconds(viewer, f"#latents?sort=-{key}") <= BUSY * PAIR_MS
    assert "18,432" in page.locator(".pager").first.inner_text()
    viewer.press("ArrowRight", "#latents?sort=-burstiness&page=2")
    page.locator("#search").fill(" word1")
    viewer.settled("#latents?find=+word1")
    assert all("word1" in row for row in viewer.column(2))
    assert float(page.locator("main").get_attribute("data-milliseconds")) <= BUSY * PAIR_MS
