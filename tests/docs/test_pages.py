"""The Python on every page runs and prints what it promises, and links and install commands lead somewhere."""

from __future__ import annotations

import ast
import re
import sys
import textwrap
import types
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest

import fastadam
from docs.make import house
from fastadam.backends import MODULES
from tests.house.test_architecture import MAY_IMPORT
from tests.support.foreign import library

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text() for path in sorted(DOCS.rglob("*.md"))}
FENCE = re.compile(r"(?ms)^([ ]*)```python\b[^\n]*\n(.*?)^\1```[ ]*$")


class Block(NamedTuple):
    """Python on a page.

    Attributes
    ----------
    source : str
    line : int
        In which line of the page it begins, counted from 0.
    """

    source: str
    line: int


def blocks_of(text: str) -> list[Block]:
    """Return the blocks of a page, in their order."""
    return [Block(textwrap.dedent(found[2]), text[: found.start(2)].count("\n")) for found in FENCE.finditer(text)]


def imported(blocks: list[Block]) -> set[str]:
    """Return the libraries that a page imports, and those that a part of ours belongs to."""
    names: set[str] = set()
    for node in (node for block in blocks for node in ast.walk(ast.parse(block.source))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    parts = {name.split(".")[1] for name in names if name.startswith("fastadam.")}
    return {name.partition(".")[0] for name in names} | (parts & {"scipy", "sklearn", "thinc", "torch"})


class Prints(NamedTuple):
    """A call of print on a page, and what the comment behind it promises."""

    first: int
    last: int
    promised: str


def promises(tree: ast.Module, lines: list[str]) -> list[Prints]:
    """Return the calls of print that have a comment behind them."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            assert node.end_lineno is not None
            behind = lines[node.end_lineno - 1][node.end_col_offset :].strip()
            if behind.startswith("#"):
                found.append(Prints(node.lineno, node.end_lineno, behind.lstrip("# ")))
    return found


def run(name: str, blocks: list[Block], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run the blocks of a page in one namespace; return the promises that were not kept."""
    page = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", page)  # where pickles look for what it defines
    printed: dict[int, list[str]] = defaultdict(list)

    def say(*values: object, sep: str = " ", **_: object) -> None:
        printed[sys._getframe(1).f_lineno].append(sep.join(map(str, values)))

    vars(page)["print"] = say
    wrong = []
    for block in blocks:
        text = "\n" * block.line + block.source  # so that a traceback has the page's lines
        exec(compile(text, name, "exec"), vars(page))
        for call in promises(ast.parse(text), text.split("\n")):
            said = [each for line in range(call.first, call.last + 1) for each in printed[line]]
            if said[-1:] != [call.promised]:
                wrong.append(f"{name}, line {call.last}: promised {call.promised!r}, printed {said[-1:]}")
    return wrong


WITH_CODE = [name for name, text in PAGES.items() if blocks_of(text)]


# What other libraries warn of: thinc, and Keras on torch.
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", WITH_CODE)
def test_the_python_of_a_page_runs(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blocks = blocks_of(PAGES[name])
    for needed in sorted(imported(blocks) - sys.stdlib_module_names - {"fastadam", "numpy"}):
        library(needed)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    assert run(name, blocks, monkeypatch) == []


def test_blocks_are_found_and_promises_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    text = textwrap.dedent(
        """
        ```python
        x = 3
        print(x)  # 3
        ```
        - in a list:

            ```python title="more"
            for i in range(2):
                print(x + i,
                      "!")  # 4 !
            print("other")  # another
            ```

        ```py
        not run
        ```
        """
    )
    wrong = run("page.md", blocks_of(text), monkeypatch)
    assert wrong == ["page.md, line 12: promised 'another', printed ['other']"]


def test_pages_have_code_that_runs() -> None:
    guides = ("doors", "parameters", "whole-step", "averages", "checkpoints", "convert", "pytorch", "types")
    guides += ("low-precision",)
    assert {"index.md", *(f"guides/{name}.md" for name in guides)} <= set(WITH_CODE)


def test_no_fence_goes_by_another_name_for_python() -> None:
    """Such code would not be run; ``py`` is for what cannot be, such as code for GPUs."""
    for name, text in PAGES.items():
        languages = set(re.findall(r"(?m)^ *```+ *\{? *\.?(\w+)", text))
        assert languages <= {"python", "py", "sh", "text", "ini", "json"}, name


def test_the_table_of_backends_lists_every_backend() -> None:
    assert re.findall(r"(?m)^\| `(\w+)` \|", PAGES["guides/backends.md"]) == list(MODULES)


def test_the_page_of_types_names_every_alias() -> None:
    for name in ("Backend", "Grads", "Options", "ParamGroup", "Params", "Schedule"):
        assert name in fastadam.__all__
        assert f"`{name}`" in PAGES["guides/types.md"]


def test_the_reference_has_every_public_name() -> None:
    reference = "\n".join(text for name, text in PAGES.items() if name.startswith("reference/"))
    shown = {*re.findall(r"(?m)^::: fastadam\.([\w.]+)", reference), *re.findall(r"(?m)^## (\w+)", reference)}
    assert {*fastadam.__all__} - {"__version__"} <= shown


@pytest.mark.parametrize("name", ["convert", "torch"])
def test_the_reference_has_every_public_name_of_a_part(name: str) -> None:
    tree = ast.parse((Path(fastadam.__file__).parent / name / "__init__.py").read_text())
    (public,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    )
    shown = re.findall(rf"(?m)^::: fastadam\.{name}\.(\w+)", PAGES[f"reference/{name}.md"])
    assert set(shown) == set(public)


OTHERS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "tests/README.md")]


def test_the_pages_install_in_place() -> None:
    """After an installation elsewhere, Python started in the source folder would import that, unbuilt."""
    texts = [*PAGES.values(), (ROOT / "README.md").read_text()]
    commands = [found for text in texts for found in re.findall(r'pip install (-e )?"?\.(?:\[|\n|`| )', text)]
    assert len(commands) >= 7
    assert all(commands)


def anchors(text: str) -> set[str]:
    """Return where links can lead within a page, as GitHub makes anchors of headings."""
    headings = re.findall(r"(?m)^#+ (.*)$", re.sub(r"(?ms)^```.*?^```", "", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.name)
def test_links_from_outside_the_site_lead_somewhere(path: Path) -> None:
    """Those within it are looked at by ``mkdocs build --strict``."""
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", path.read_text()):
        file, _, anchor = target.partition("#")
        found = path.parent / file if file else path
        assert found.exists(), target
        assert not anchor or anchor in anchors(found.read_text()), target


def test_pages_that_the_source_names_are_there() -> None:
    named = {
        found
        for folder in ("fastadam", "cext", "benchmarks", "examples", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".c", ".h", ".inc"} and path != Path(__file__)
        for found in re.findall(r"\bdocs/[\w/.-]+\.(?:md|png|svg)", path.read_text())
    }
    assert len(named) >= 2
    assert [each for each in named if not (ROOT / each).exists()] == []


def test_commands_on_the_pages_are_there() -> None:
    texts = [*PAGES.values(), *(path.read_text() for path in OTHERS)]
    modules = {
        found for text in texts for found in re.findall(r"python -m ((?:tests|benchmarks|docs)[\w.]*)", text)
    }
    scripts = {
        found for text in texts for found in re.findall(r"\b((?:benchmarks|examples|docs|tests)/[\w/]+\.py)", text)
    }
    assert len(modules) >= 5
    assert len(scripts) >= 5
    at = {name: ROOT / name.replace(".", "/") for name in modules}
    assert [name for name, path in at.items() if not (path.is_dir() or path.with_suffix(".py").exists())] == []
    assert [name for name in scripts if not ((ROOT / name).exists() or list(ROOT.glob(f"*/{name}")))] == []


def test_the_command_line_has_the_commands_on_the_pages() -> None:
    library("typer")
    from fastadam.cli.app import app

    known = {command.callback.__name__ for command in app.registered_commands if command.callback}
    shells = [block for text in PAGES.values() for block in re.findall(r"(?ms)^```sh\n(.*?)^```", text)]
    named = {found for block in shells for found in re.findall(r"(?m)^fastadam ([a-z]+)\b", block)}
    assert named == known


def test_the_drawn_house_is_the_one_that_stands() -> None:
    rooms = {
        name: (floor, floor + room.floors - 1)
        for floor, rooms in enumerate(house.FLOORS)
        for room in rooms
        for name in room.names
    }
    assert rooms.keys() == MAY_IMPORT.keys()
    lifted = [
        (room, other)
        for room, others in MAY_IMPORT.items()
        for other in others
        if rooms[other][1] < rooms[room][0]
    ]
    assert lifted == []
    assert house.PICTURE.read_text() == house.draw()
