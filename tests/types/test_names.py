"""The names that are there for annotations, at run time."""

from __future__ import annotations

import inspect
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import fastadam
from fastadam.backends import MODULES
from fastadam.groups.forms import GroupOptions
from fastadam.step.hyperparameters import KEYS
from tests.support.processes import LONG

NAMES = ("Backend", "Grads", "Options", "ParamGroup", "Params", "Schedule")


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(fastadam.__file__).parent / "py.typed").is_file()


def test_backends_are_those_that_there_are() -> None:
    assert typing.get_args(fastadam.Backend) == ("auto", *MODULES)


def test_options_are_those_that_optimizers_take() -> None:
    assert set(GroupOptions.__annotations__) == set(KEYS)
    assert set(fastadam.ParamGroup.__annotations__) == {*KEYS, "params"}
    assert fastadam.ParamGroup.__required_keys__ == {"params"}
    parameters = set(inspect.signature(fastadam.Adam).parameters) - {"params"}
    assert set(fastadam.Options.__annotations__) == parameters
    assert fastadam.Options.__required_keys__ == set()


@pytest.mark.parametrize("name", NAMES)
def test_annotations_can_be_resolved_in_any_module(name: str) -> None:
    module: dict[str, typing.Any] = {"fastadam": fastadam}
    exec(f"def function(given: 'fastadam.{name}') -> 'fastadam.{name}': ...", module)
    assert typing.get_type_hints(module["function"])["given"] == getattr(fastadam, name)


def test_an_import_does_not_make_what_only_annotations_need() -> None:
    code = """
import sys, fastadam
assert not {"fastadam.memory.forms", "fastadam.groups.forms"} & {*sys.modules}
assert {"Params", "Grads"} <= {*dir(fastadam)}
from fastadam import Params, Grads
assert fastadam.Params is Params
"""
    subprocess.run([sys.executable, "-c", code], timeout=LONG, check=True)
