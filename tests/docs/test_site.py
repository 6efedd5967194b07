"""The documentation site builds without a warning, and its pages need nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import LONG

ROOT = Path(__file__).parents[2]
LOADING = re.compile(r"<(?:script|link|img|iframe|source|video|audio|use|image|object|embed)\b[^>]*>")
pytestmark = pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="without the extra docs")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site into an empty folder."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    outside = []
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        text = path.read_text()
        loaded = re.findall(r"url\(([^)]*)\)|@import\s+([^;]*)", text)
        for tag in LOADING.findall(text):
            loaded += re.findall(r"""\b(?:src|href|srcset|data)=(?:"([^"]*)"|([^\s"'>]+))""", tag)
        addresses = [each for found in loaded for each in found]
        outside += [f"{path.name}: {each}" for each in addresses if re.match(r"\W*(https?:)?//", each)]
    assert outside == []


def test_equations_are_mathml(site: Path) -> None:
    for name in ("how-it-works", "reference/adam"):
        page = (site / f"{name}.html").read_text()
        assert '<math display="block">' in page
        assert "arithmatex" not in page


def test_the_reference_shows_signatures_with_numbers_and_names(site: Path) -> None:
    page = re.sub(r"<[^>]*>", "", (site / "reference" / "adam.html").read_text())
    assert re.search(r"params:\s+Params", page)
    assert re.search(r"lr:\s+LearningRate\s+=\s+0\.001", page)
    page = re.sub(r"<[^>]*>", "", (site / "reference" / "torch.html").read_text())
    assert re.search(r"max_grad_norm:\s+float\s+\|\s+None\s+=\s+None", page)


def test_the_search_finds_the_pages(site: Path) -> None:
    index = (site / "search" / "search_index.json").read_text()
    assert "guides/parameters.html" in index
    assert "clip_grad_norm" in index
