"""Reports in Chromium: nothing is cut off, hard to read, asked for, or leads nowhere."""

import json

import pytest

from temporal_sae.report.sweep_build import build_sweep_report
from tests.report.test_run_page import HOSTILE, build_report, log
from tests.report.test_sweep_page import SETTINGS, sweep

SIZES = [(1280, 900), (390, 844)]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """A sweep with a report, whose runs have theirs, with everything that a report may show."""
    folder = tmp_path_factory.mktemp("reports") / "a sweep#1"
    statuses = sweep(folder, SETTINGS, (0, 1), memory_budget_bytes={"tracker": 2**21})
    for n, status in enumerate(statuses):
        rows = [
            {
                "tokens": 10 * t,
                "loss": 1 / t,
                "loss_reconstruction": 0.5 / t,
                "l0": 8,
                "tokens_per_second": 12345,
                "pair_stability": t / 99,
            }
            for t in range(1, 50)
        ]
        log(status.folder, rows)
        results = json.loads((status.folder / "results.json").read_text())
        metrics = results["core evaluation results"]["metrics"]
        metrics["sparsity"] = {"l0": 8 + n}
        metrics["reconstruction_quality"] = {"explained_variance": 0.5 + n / 50}
        seen = results["co-activation results"]
        seen["top_pairs_overlap_by_windows"] = {"10": 0.5, "20": 0.25}
        results["training results for layer 3"]["config"]["lm_name"] = HOSTILE
        (status.folder / "results.json").write_text(json.dumps(results))
    for status in statuses:
        build_report(status.folder)
    build_sweep_report(folder, statuses, "python launch.py -m " + "a.long_word_of_an_option=1 " * 9)
    return folder


@pytest.fixture
def look(chromium):
    contexts, wrong = [], []

    def look(path, size=SIZES[0], scheme="light"):
        context = chromium.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda r: r.url.startswith("file:///") or wrong.append(r.url))
        page.goto(path.as_uri())
        return page

    yield look
    for context in contexts:
        context.close()
    assert wrong == []


def pages(reports):
    return [reports / "report.html", reports / "4_job" / "report.html"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("which", [0, 1])
def test_nothing_is_wider_than_the_page(reports, look, size, which):
    page = look(pages(reports)[which], size)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    for svg in page.locator("svg.chart").all():
        box = svg.bounding_box()
        assert box["width"] > 200 and box["x"] >= 0 and box["x"] + box["width"] <= size[0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", [0, 1])
def test_axe_finds_nothing_serious(reports, chromium, scheme, which):
    from axe_playwright_python.sync_playwright import Axe

    # The page forbids all scripts, as it has none; the checker comes past that.
    context = chromium.new_context(bypass_csp=True, color_scheme=scheme)
    page = context.new_page()
    page.goto(pages(reports)[which].as_uri())
    violations = Axe().run(page).response["violations"]
    context.close()
    serious = [v for v in violations if v["impact"] in ("serious", "critical")]
    assert [(v["id"], [n["html"] for n in v["nodes"]][:3]) for v in serious] == []


def test_a_point_leads_to_its_run_and_back(reports, look):
    page = look(reports / "report.html")
    page.locator("svg a").first.click()
    page.wait_for_url("**_job/report.html")
    assert page.locator("h1").inner_text().endswith("_job")
    page.go_back()
    page.locator("table tbody th a").last.click()
    page.wait_for_url("**/9_job/report.html")


def test_words_of_a_stranger_are_words(reports, look):
    page = look(reports / "4_job" / "report.html")
    assert '<script>alert("x")</script>' in page.locator("header").inner_text()
    assert page.locator("script").count() == 0


def test_it_prints(reports, look):
    page = look(reports / "report.html")
    assert len(page.pdf(format="A4")) > 10_000
