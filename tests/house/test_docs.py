"""README's code runs, and the docstrings' examples print what they say. The pages of the site: `tests/docs`."""

from __future__ import annotations

import doctest
import importlib
import json
import re
import warnings
from pathlib import Path

import pytest

import fastadam
from tests.house import graph

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)

ALIASES = {"Backend", "Grads", "Params", "Schedule"}  # which have no docstrings, but a page


def need(*libraries: str) -> None:
    """Skip the test where a library is missing."""
    for library in libraries:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what they do while they are imported
            pytest.importorskip(library)


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept:DeprecationWarning"
)  # in Keras on torch
@pytest.mark.parametrize("block", BLOCKS, ids=[f"block {i}" for i in range(len(BLOCKS))])
def test_python_blocks_of_the_readme_run(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    need(*re.findall(r"(?m)^import (torch|jax|keras)\b", block))
    need(*re.findall(r"\b(optax)\b", block))
    exec(compile(block, "README.md", "exec"), {})
    promised = re.findall(r"print\(.*\)  # (.*)", block)
    assert capsys.readouterr().out.splitlines() == promised


def test_the_readme_has_blocks_and_both_commands() -> None:
    assert len(BLOCKS) >= 4
    for marker in ("example", "test"):
        assert re.search(rf"<!-- {marker} command -->\n```sh\npython3 -m venv \.venv && .*\n```", README)


# Modules with examples, and what these need.
EXAMPLES = {
    name: re.findall(r"(?m)^ +>>> (?:import|from) (.*)", text)
    for name, path in graph.modules(Path(fastadam.__file__).parent).items()
    if ">>> " in (text := path.read_text())
}


def test_examples_are_found() -> None:
    assert len(EXAMPLES) >= 8
    assert "fastadam.adam" in EXAMPLES


@pytest.mark.parametrize("name", EXAMPLES)
def test_docstring_examples(name: str) -> None:
    need(
        *{"torch", "jax", "optax", "scipy", "sklearn", "thinc"}
        & {*name.split("."), *re.findall(r"\w+", " ".join(EXAMPLES[name]))}
    )
    module = importlib.import_module(name)
    # A class may give the package from which users import it as its own module.
    given = {each.__module__ for each in vars(module).values() if isinstance(each, type)}
    names = {name, *(each for each in given if name.startswith(f"{each}."))}
    found = [doctest.testmod(importlib.import_module(each)) for each in sorted(names)]
    assert sum(each.attempted for each in found) > 0
    assert sum(each.failed for each in found) == 0


def test_every_public_name_is_documented() -> None:
    for name in {*fastadam.__all__} - ALIASES - {"__version__"}:
        assert (getattr(fastadam, name).__doc__ or "").strip()


def test_the_version_is_stated_once_more_in_pyproject() -> None:
    assert f'version = "{fastadam.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_the_asv_configuration_is_valid_json() -> None:
    config = json.loads((ROOT / "asv.conf.json").read_text())
    assert (ROOT / config["benchmark_dir"]).is_dir()
