"""The pages of a site in Chromium: what they show, where links and keys lead."""

import re

import numpy as np
import pytest
import torch

from temporal_sae.atlas import Atlas, statistics
from temporal_sae.atlas.firings import Firings
from temporal_sae.atlas.site import write_site
from temporal_sae.atlas.statistics import Counts
from temporal_sae.tracker.alpha import AlphaRule, moved
from tests.atlas.site import reading, worlds

VIEWS = {
    "": "Latents",
    "#latents?sort=-density&find=w1": "Latents",
    "#latents?community=2": "Community 2",
    f"#latent/{worlds.HOSTILE_ONE}": f"Latent {worlds.HOSTILE_ONE}",
    f"#pair/{worlds.CHILD}/{worlds.PARENT}": f"Latents {worlds.CHILD} and {worlds.PARENT}",
    "#pairs": "Pairs",
    "#about": "About small <world>",
}


@pytest.fixture(scope="session")
def known(full):
    """The atlas of the full site, its activations [tokens, latents], and its documents."""
    firings = Firings(full / "firings", worlds.N_LATENTS, worlds.WINDOW)
    acts = np.zeros((firings.n_tokens, worlds.N_LATENTS), np.float32)
    acts[np.repeat(np.arange(len(acts)), np.diff(firings.starts)), firings.latents] = firings.values
    return Atlas(full), acts, np.asarray(firings.places)


@pytest.mark.parametrize("size", ["wide", "narrow"])
@pytest.mark.parametrize(("address", "title"), VIEWS.items())
def test_every_view_stands_and_nothing_is_cut_off(look, full, address, title, size):
    viewer = look(full, size)
    page = viewer.open(address)
    assert page.locator("h1").inner_text() == title
    assert page.title().endswith("Atlas")
    wide, room = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= room


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("address", VIEWS)
def test_nobody_is_shut_out(look, full, address, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = look(full, scheme=scheme).open(address)
    found = axe.run(page, options={"preload": False}).response["violations"]
    grave = [rule for rule in found if rule["impact"] in ("serious", "critical")]
    assert [(rule["id"], [node["html"] for node in rule["nodes"]][:3]) for rule in grave] == []


def test_a_latent_has_all_its_sections(look, full):
    viewer = look(full)
    page = viewer.open(f"#latent/{worlds.PARENT}")
    assert viewer.texts("main h2") == [
        *("Strongest examples", "Examples by strength", "Near misses", "Fires with"),
        *("Tokens", "Logits", "Activations", "Where in a document", "Stability", "Relatives"),
        "Nearest directions",
    ]
    text = page.locator("main").inner_text()
    for told in ("Ablated, KL", "Community", "seed1: latent", "The final norm is left out."):
        assert told in text
    assert {"Children", "Absorbers", "Absorbed"} <= {
        line.split()[0] for line in viewer.texts("main h3")
    }


def test_what_is_not_known_has_no_place(look, bare):
    viewer = look(bare)
    page = viewer.open("#latent/5")
    assert viewer.texts("main h2") == [
        *("Strongest examples", "Examples by strength", "Fires with"),
        *("Activations", "Nearest directions"),
    ]
    text = page.locator("main").inner_text()
    assert not re.search("undefined|NaN|null|Ablated|document -", text)
    viewer.open()
    heads = viewer.texts("main thead th")
    assert [head.strip(" ↑") for head in heads] == [
        *("Latent", "Top tokens", "Density", "Max", "Burstiness", "Degree")
    ]
    for address in ("#pair/5/6", "#pairs", "#about"):
        viewer.open(address)
        assert not re.search("undefined|NaN|null", page.locator("main").inner_text())


def test_a_latent_that_never_fires_says_so(look, full):
    viewer = look(full)
    page = viewer.open(f"#latent/{worlds.SILENT}")
    text = page.locator("main").inner_text()
    assert "It never fires in this text." in text
    assert not re.search("undefined|NaN|null|Infinity", text)
    page = viewer.open(f"#pair/{worlds.SILENT}/9")
    assert "None in the sample." in page.locator("main").inner_text()
    assert not re.search("undefined|NaN|null|Infinity", page.locator("main").inner_text())


def test_tokens_are_shown_as_they_are(look, full):
    viewer = look(full)
    page = viewer.open(f"#latent/{worlds.HOSTILE_ONE}")
    text = page.locator("main").inner_text()
    for told in ("<script>alert(1)</script>", "</script>", "\"'`&amp;<b>", "👩\u200d🔬", "]]>"):
        assert told in text
    assert "hostile </script> text" in text
    assert page.locator("main script, main b, main img").count() == 0
    shown = viewer.texts("main .narrow .token")
    for told in ("RLOevilPDF", "aNULb", "LSPS", "⏎␣␣␣", "␣␣two␣␣", "BOMBELESC[31m"):
        assert told in shown
    isolated = page.evaluate(
        "[...document.querySelectorAll('main .token')]"
        ".every(one => getComputedStyle(one).unicodeBidi.includes('isolate'))"
    )
    assert isolated
    assert "\u202e" not in text
    assert page.locator(".context bdi", has_text="שלום").count()


def test_a_column_sorts_by_its_values(look, full, known):
    viewer = look(full)
    page = viewer.open()
    atlas, *_ = known
    density = np.array(atlas.latents["density"].to_pylist())
    page.get_by_role("button", name="Density").click()
    viewer.settled("#latents?sort=-density")
    falling = [str(n) for n in np.argsort(-density, kind="stable")]
    assert viewer.column(1) == falling
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("Density")
    page.get_by_role("button", name="Density").click()
    viewer.settled("#latents?sort=density")
    assert viewer.column(1) == [str(n) for n in np.argsort(density, kind="stable")]
    page.go_back()
    viewer.settled("#latents?sort=-density")
    assert viewer.column(1) == falling


def test_search_finds_tokens_words_numbers_and_pairs(look, full, known):
    viewer = look(full)
    page = viewer.open()
    top = [row[:4] for row in known[0].latents["top_tokens"].to_pylist()]
    page.keyboard.press("/")
    page.keyboard.type(" TREE")
    viewer.settled("#latents?find=+TREE")
    assert viewer.column(1) == [str(n) for n, row in enumerate(top) if " tree" in row]
    assert set(viewer.texts("main .token.found")) == {"␣tree"}
    page.locator("#search").fill("stone")
    viewer.settled("#latents?find=stone")
    assert viewer.column(1) == [str(n) for n, row in enumerate(top) if " Stone" in row]
    page.locator("#search").fill("zebra")
    viewer.settled("#latents?find=zebra")
    assert viewer.column(1) == ["7"]
    page.locator("#search").fill("no such thing")
    viewer.settled("#latents?find=no+such+thing")
    assert "No latent has such a token" in page.locator("main").inner_text()
    page.locator("#search").fill("17")
    page.keyboard.press("Enter")
    viewer.settled("#latent/17")
    page.keyboard.press("/")
    page.keyboard.type("2, 3")
    page.keyboard.press("Enter")
    viewer.settled("#pair/2/3")
    assert page.locator("#search").input_value() == ""


def test_the_strongest_pairs_by_each_number(look, full, known):
    viewer = look(full)
    page = viewer.open("#pairs")
    rows = known[0].pairs.to_pylist()
    assert any("parent of" in text for text in viewer.column(2))
    for name, column in (("φ", "phi"), ("Cosine", "decoder_cosine"), ("c·cos²", "c_cos2")):
        page.locator(".tabs").get_by_role("link", name=name, exact=True).click()
        viewer.settled(f"#pairs?by={column}")
        best = sorted((r for r in rows if not np.isnan(r[column])), key=lambda r: -r[column])
        assert viewer.column(1) == [f"{row['i']} / {row['j']}" for row in best[:50]]
    page.get_by_role("button", name="Show all 200").click()
    assert len(viewer.column(1)) == 200
    page.get_by_role("button", name="Both").click()
    both = [int(text.replace(",", "")) for text in viewer.column(3)]
    assert both == sorted(both, reverse=True)
    first = viewer.column(1)[0]
    page.get_by_role("link", name=first, exact=True).click()
    viewer.settled(f"#pair/{first.replace(' / ', '/')}")


def test_a_community_is_a_table_of_its_latents(look, full, known):
    viewer = look(full)
    page = viewer.open("#latents?community=2")
    members = np.flatnonzero(np.array(known[0].latents["community"]) == 2)
    assert viewer.column(1) == [str(n) for n in members]
    page.get_by_role("link", name="show all").click()
    viewer.settled("#latents")
    assert len(viewer.column(1)) == worlds.N_LATENTS
    heights = page.locator(".densities rect").evaluate_all("all => all.map(one => one.textContent)")
    sizes = [int(text.split(": ")[1].split(" ")[0]) for text in heights]
    assert sum(sizes) == worlds.N_LATENTS - 1
    assert "1 silent" in page.locator(".densities").text_content()


def test_from_the_table_to_a_latent_to_a_pair_and_back(look, full):
    viewer = look(full)
    page = viewer.open("#latents?sort=-burstiness")
    page.get_by_role("link", name=str(worlds.CHILD), exact=True).first.scroll_into_view_if_needed()
    page.mouse.wheel(0, 400)
    page.wait_for_timeout(300)
    depth = page.evaluate("scrollY")
    assert depth > 0
    page.evaluate(f"document.querySelector('main a[href=\"#latent/{worlds.CHILD}\"]').click()")
    viewer.settled(f"#latent/{worlds.CHILD}")
    assert page.evaluate("scrollY") == 0
    pair = f"#pair/{worlds.CHILD}/{worlds.PARENT}"
    page.locator(f'main a[href="{pair}"]').first.click()
    viewer.settled(pair)
    text = page.locator("main").inner_text()
    assert f"{worlds.CHILD} looks like a child of {worlds.PARENT}" in text
    page.go_back()
    viewer.settled(f"#latent/{worlds.CHILD}")
    page.go_back()
    viewer.settled("#latents?sort=-burstiness")
    page.wait_for_function(f"scrollY === {depth}")


def test_keys_walk_along_the_order_of_the_table(look, full):
    viewer = look(full)
    page = viewer.open("#latents?sort=-density")
    order = viewer.column(1)
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("j")
    viewer.press("Enter", f"#latent/{order[1]}")
    viewer.press("j", f"#latent/{order[2]}")
    viewer.press("ArrowRight", f"#latent/{order[3]}")
    viewer.press("k", f"#latent/{order[2]}")
    viewer.press("u", "#latents?sort=-density")
    assert page.locator("tr.selected").get_attribute("data-latent") == order[1]
    page.keyboard.press("?")
    assert page.locator("dialog[open] h2").inner_text() == "Keyboard"
    page.keyboard.press("j")
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    viewer.open(f"#pair/{worlds.CHILD}/{worlds.PARENT}")
    page.keyboard.press("j")
    page.wait_for_function(f"location.hash !== '#pair/{worlds.CHILD}/{worlds.PARENT}'")
    assert page.evaluate("location.hash").startswith(f"#pair/{worlds.CHILD}/")


def test_light_and_dark(look, full):
    viewer = look(full, scheme="dark")
    page = viewer.open()
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    page.keyboard.press("t")
    assert page.evaluate(paper) != dark
    page.reload()
    viewer.settled("")
    assert page.evaluate(paper) != dark
    page.locator("#theme").click()
    assert page.evaluate(paper) == dark
    page.emulate_media(media="print")
    for gone in (".bar", ".pager"):
        shown = f"getComputedStyle(document.querySelector('{gone}')).display"
        assert page.evaluate(shown) == "none"


def test_statistics_are_those_of_the_tables(look, full):
    page = look(full).open("#about")
    cases = [(3, 10, 20, 100), (0, 10, 20, 100), (0, 0, 20, 100), (5, 5, 5, 100), (9, 9, 100, 100)]
    cases += [(100, 100, 100, 100), (123456, 400000, 765432, 10_000_000)]
    for case in cases:
        counts = Counts.of(*case)
        for name in ("phi", "npmi", "lift", "jaccard", "given_i", "given_j", "z_score"):
            found = page.evaluate(f"atlas.statistics.{name}(...{list(case)})")
            wanted = float(getattr(statistics, name)(counts))
            assert float("nan" if found is None else found) == pytest.approx(wanted, nan_ok=True)


def test_a_relation_is_told_from_either_side(look, full):
    page = look(full).open("#about")
    turned = "atlas.data.turned((column) => (column === 'relation' ? '{}' : 7))"
    for told, wanted in (("parent", "child"), ("absorbed", "absorber"), ("duplicate",) * 2):
        assert page.evaluate(f"{turned.format(told)}('relation')") == wanted
        assert page.evaluate(f"{turned.format(told)}('n_ij')") == 7
    assert page.evaluate("atlas.data.turned(null)") is None


def test_the_running_average_moves_as_the_tracker_s(look, full):
    page = look(full).open("#about")
    counts, size = [40, 0, 900, 17, 3, 0, 250], 1000
    rule = AlphaRule("pair", 0.1, 1000.0, 0.0, "first")
    wanted, average = [], torch.zeros(1)
    for window, n in enumerate(counts, 1):
        average = moved(rule.step(window), average, torch.tensor([float(n)]), size)
        wanted.append(average.item())
    step = "{cap: 0.1, scale: 1000}"
    found = page.evaluate(f"atlas.runningAverage({counts}, {size}, {step})")
    assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("i", "j"), [(worlds.CHILD, worlds.PARENT), (30, 4), (38, 39), (worlds.CHILD, worlds.APART)]
)
def test_a_pair_shows_what_the_firings_say(look, full, known, i, j):
    _, acts, places = known
    viewer = look(full)
    page = viewer.open(f"#pair/{i}/{j}")
    a, b = (acts[:, latent] > 0 for latent in (i, j))
    n = int((a & b).sum())
    facts = dict(zip(viewer.texts("main .facts dt"), viewer.texts("main .facts dd"), strict=True))
    assert facts["Both fire in"] == f"{n:,} token{'s' * (n != 1)}"
    phi = float(statistics.phi(Counts.of(n, a.sum(), b.sum(), len(acts))))
    assert facts["φ"].replace("−", "-") == f"{phi:.3f}"
    sizes = [n, int((a & ~b).sum()), int((b & ~a).sum())]
    headings = [
        f"Both fire ({n:,})",
        f"Only {i} fires ({sizes[1]:,})",
        f"Only {j} fires ({sizes[2]:,})",
    ]
    assert viewer.texts("main h2")[-3:] == headings
    is_over_training = "Directions over training" in viewer.texts("main h2")
    assert is_over_training == ({i, j} == {worlds.CHILD, worlds.PARENT})
    for place, wanted in enumerate((a & b, a & ~b, b & ~a)):
        items = page.locator("main section").nth(-3 + place).locator("li")
        assert items.count() == min(6, items.count())
        assert bool(items.count()) == wanted.any()
        for item in items.all()[:2]:
            context, source = item.locator(".context"), item.locator(".source").inner_text()
            token = context.locator(".here")
            document = int(source.removeprefix("document "))
            same = [worlds.TEXT[t] for t in places[wanted & (places[:, 1] == document), 0]]
            assert token.text_content().strip() in [shown(text).strip() for text in same]
            is_under = "under" in token.get_attribute("class").split()
            assert is_under == (place != 1)
            assert (level_of(token) > 0) == (place != 2)


def level_of(token):
    """Return the strength of a token's shade, from 0 to 1."""
    return float(token.evaluate("one => one.style.getPropertyValue('--level')"))


def test_a_pair_that_no_latent_lists_has_its_counts_all_the_same(look, full, known):
    atlas, *_ = known
    listed = set()
    for first in range(0, worlds.N_LATENTS, 16):
        columns = reading.table(reading.read(full / "site", f"latents/{first // 16}")["partners"])
        listed |= set(zip(columns["latent"], columns["partner"], strict=True))
    rows = [r for r in atlas.pairs.to_pylist() if not {(r["i"], r["j"]), (r["j"], r["i"])} & listed]
    assert rows
    viewer = look(full)
    page = viewer.open(f"#pair/{rows[0]['j']}/{rows[0]['i']}")
    facts = dict(zip(viewer.texts("main .facts dt"), viewer.texts("main .facts dd"), strict=True))
    assert facts["Both fire in"] == f"{rows[0]['n_ij']} tokens"
    assert "Decoder cosine" not in facts
    assert page.locator(".warn").count() == 0


def test_tokens_are_shaded_by_their_activation(look, full, known):
    atlas, acts, _ = known
    viewer = look(full)
    viewer.open(f"#latent/{worlds.PARENT}")
    rows = [row for row in atlas.examples.to_pylist() if row["latent"] == worlds.PARENT]
    items = viewer.page.locator("main .wide .example")
    assert items.count() == len(rows)
    largest = acts[:, worlds.PARENT].max()
    for place in (0, 7, 24, len(rows) - 1):
        item, row = items.nth(place), rows[place]
        told = item.locator(".value").inner_text()
        assert told == (f"{row['activation']:.2f}" if row["activation"] else "0")
        lit = item.locator(".lit:not(.here)")
        others = [a for n, a in enumerate(row["activations"]) if n != row["place"]]
        wanted = [a / largest for a in others if a > 0]
        found = [level_of(token) for token in lit.all()]
        assert found == pytest.approx(wanted, abs=1 / 127)
        here = level_of(item.locator(".here"))
        assert here == pytest.approx(row["activation"] / largest, abs=1 / 127)


def shown(text):
    """A token without the marks that stand for what would not be seen."""
    for character, mark in {
        "\u202e": "RLO",
        "\u202c": "PDF",
        "\x00": "NUL",
        "\ufeff": "BOM",
    }.items():
        text = text.replace(character, mark)
    text = text.replace("\x07", "BEL").replace("\x1b", "ESC")
    text = text.replace("\u2028", "LS").replace("\u2029", "PS")
    return re.sub(" ", "␣", text.replace("\n", "⏎")) if not text.strip() else text


def test_contexts_of_pairs_stay_within_a_document(look, full, known):
    """All contexts of the sample, read by the page's own function."""
    _, _, places = known
    page = look(full).open("#about")
    edge = int(np.flatnonzero(np.diff(places[:, 1]))[9])  # the last token of a document
    for token in (0, edge - 3, edge, edge + 1, edge + 20, 1234, len(places) - 1):
        found = page.evaluate(f"atlas.data.context({token}, [24, 8])")
        own = np.flatnonzero(places[:, 1] == places[token, 1])
        near = own[(own >= token - 24) & (own <= token + 8)]
        assert found["first"] == near[0]
        assert found["tokens"] == [worlds.TEXT[n] for n in places[near, 0]]
        assert found["document"] == places[token, 1]


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("#latent/40", "There is no latent 40: they are numbered from 0 to 39."),
        ("#latent/-1", "There is no latent -1"),
        ("#latent/<img src=x onerror=alert(1)>", "There is no latent <img"),
        ("#nothing", 'There is no view "nothing".'),
        ("#constructor", 'There is no view "constructor".'),
        ("#pair/3/3", "A pair is of two different latents."),
        ("#latent/%E0%A4%A", "There is no latent %E0%A4%A"),
    ],
)
def test_addresses_that_lead_nowhere(look, full, address, told):
    viewer = look(full)
    viewer.page.goto((full / "index.html").as_uri() + address)
    viewer.page.wait_for_selector("main h1")
    page = viewer.page
    assert page.locator("h1").inner_text() == "Not found"
    assert told in page.locator("main").inner_text()
    assert page.locator("main img").count() == 0


def test_a_file_that_is_missing_is_named(look, tmp_path):
    atlas, firings = worlds.small_world(tmp_path)
    write_site(atlas, firings, tmp_path)
    file = tmp_path / "site" / "latents" / "1.js"
    content = file.read_bytes()
    file.unlink()
    viewer = look(tmp_path, expects=["ERR_FILE_NOT_FOUND"])
    page = viewer.open("#latent/20")
    assert "site/latents/1.js is missing or damaged" in page.locator("main").inner_text()
    file.write_bytes(b"")
    page.evaluate("location.hash = '#latent/21'")
    viewer.settled("#latent/21")
    assert "site/latents/1.js is missing or damaged" in page.locator("main").inner_text()
    file.write_bytes(content)
    page.evaluate("location.hash = '#latent/20'")
    viewer.settled("#latent/20")
    assert page.locator("h1").inner_text() == "Latent 20"
    (tmp_path / "site" / "overview.js").unlink()
    page.reload()
    page.wait_for_selector("main .empty")
    assert "site/overview.js is missing" in page.locator("main").inner_text()
