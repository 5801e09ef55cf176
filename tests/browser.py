"""A Chromium that looks at pages.

Where there is none the tests skip with the reason. TEMPORAL_SAE_REQUIRE_CHROMIUM=1 makes that a
failure, for a machine that is meant to have it.
"""

import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


def skip(reason):
    if os.environ.get("TEMPORAL_SAE_REQUIRE_CHROMIUM"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def chromium():
    program = next((found for found in map(shutil.which, NAMES) if found), None)
    if program is None:
        skip(f"no Chromium: none of {', '.join(NAMES)} is installed")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        skip("Playwright is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()
