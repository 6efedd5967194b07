"""The gallery: every example is short, and its page shows its picture and its code as it is."""

from __future__ import annotations

import re

import pytest

from tests.examples.loading import EXAMPLES

GALLERY = EXAMPLES.parent / "docs" / "gallery"
PAGES = sorted(path.stem for path in GALLERY.glob("*.md") if path.stem != "index")
FILES = sorted(path.stem for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", FILES)
def test_examples_are_short(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 150


def test_the_index_shows_every_page_and_names_every_example() -> None:
    index = (GALLERY / "index.md").read_text()
    assert sorted(set(re.findall(r"\]\((\w+)\.md\)", index))) == PAGES
    assert sorted(set(re.findall(r"\((\w+)\.png\)", index))) == PAGES
    mentioned = index + "".join((GALLERY / f"{name}.md").read_text() for name in PAGES)
    for name in FILES:
        assert name.startswith("_") or f"examples/{name}.py" in mentioned


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_the_picture_the_command_and_the_code(name: str) -> None:
    page = (GALLERY / f"{name}.md").read_text()
    assert f"({name}.png)" in page
    assert (GALLERY / f"{name}.png").stat().st_size <= 80_000
    assert f"python examples/{name}.py" in page
    code = "".join(
        (EXAMPLES / f"{file}.py").read_text() for file in re.findall(r"(?<!tests/)examples/(\w+)\.py", page)
    )
    blocks = re.findall(r"```py\n(.*?)```", page, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        assert any(block in part for part in _indented(code)), block


def _indented(code: str) -> list[str]:
    """Return the code, and what is indented in it by one to four levels, without that indentation."""
    return [re.sub(rf"(?m)^ {{{4 * level}}}", "", code) for level in range(5)]
