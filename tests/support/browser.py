"""A headless Chromium, as Debian's packages chromium and chromium-driver bring it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROMISED = "FASTADAM_PROMISED_BROWSER"  # where this is set, a browser that is missing is a failure
OPTIONS = (
    "--headless",
    "--no-sandbox",  # Chromium refuses to run as root with it
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1000",
)


def missing() -> str:
    """Return what is missing for a browser, or an empty text."""
    for name in ("chromium", "chromedriver"):
        if shutil.which(name) is None:
            return f"{name} is missing (Debian's packages are chromium and chromium-driver)"
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is missing (it is in the extra bench)"
    return ""


def need(why_missing: str) -> None:
    """Skip the test for that reason, or fail where a browser is promised."""
    if why_missing and os.environ.get(PROMISED):
        pytest.fail(f"{PROMISED} is set, but {why_missing}")
    if why_missing:
        pytest.skip(why_missing)


@contextmanager
def browser(profile: Path) -> Iterator[Any]:
    """Give Selenium's driver of a browser that can reach this machine alone; `profile` is a new empty folder."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    # Every other name is none: a page that needs another host fails here as it does without network.
    for option in (
        *OPTIONS,
        f"--user-data-dir={profile}",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):
        options.add_argument(option)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.set_page_load_timeout(60)
        yield driver
    finally:
        driver.quit()
