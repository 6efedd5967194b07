"""Words in memory that say what a dict or list holds: they change with it, or are not used."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastadam.memory import container_words
from tests.support.strategies import examples

CPYTHON = sys.implementation.name == "cpython" and ctypes.sizeof(ctypes.c_void_p) == 8
KEYS = ["w", "b", "v"]


def words(container: Any) -> list[int] | None:
    """Return what is at the addresses, after comparing it with what is said to be there."""
    found = container_words.words_of(container)
    if found is None:
        return None
    addresses, said = found
    seen = [ctypes.c_int64.from_address(address).value for address in addresses]
    assert seen == said
    return [*addresses, *seen]


@pytest.mark.skipif(not CPYTHON, reason="CPython has such words")
def test_cpython_has_them() -> None:
    assert words([1, "w"]) is not None
    assert (words({"w": 1}) is not None) == (sys.version_info < (3, 14))
    assert (container_words.version_of({}) is not None) == (sys.version_info < (3, 14))


@examples(100)
@given(data=st.data(), n=st.integers(0, 30))
def test_a_list_that_changes_has_other_words(data: st.DataObject, n: int) -> None:
    each: list[Any] = [object() for _ in range(n)]
    for _ in range(20):
        before, held = words(each), [*each]
        match data.draw(st.sampled_from(["append", "pop", "set", "swap", "insert", "sort", "nothing"])):
            case "append":
                each.append(object())
            case "pop" if each:
                each.pop(data.draw(st.integers(0, len(each) - 1)))
            case "set" if each:
                each[data.draw(st.integers(0, len(each) - 1))] = object()
            case "swap":
                each.reverse()
            case "insert":
                each.insert(0, object())
            case "sort":
                each.sort(key=id)
        same = len(held) == len(each) and all(a is b for a, b in zip(held, each, strict=True))
        assert before is None or (words(each) == before) == same


class Plain:
    """Has a dict."""


@examples(100)
@given(data=st.data(), of_an_object=st.booleans())
def test_a_dict_that_changes_has_another_version(data: st.DataObject, of_an_object: bool) -> None:
    instance = Plain()
    each: dict[str, Any] = vars(instance) if of_an_object else {}
    for _ in range(20):
        before, held = words(each), [*each.values()]
        key = data.draw(st.sampled_from(KEYS))
        match data.draw(st.sampled_from(["set", "attribute", "pop", "update", "clear", "or", "read"])):
            case "set":
                each[key] = object()
            case "attribute":
                setattr(instance, key, object())
            case "pop":
                each.pop(key, None)
            case "update":
                each.update({key: object()})
            case "clear":
                each.clear()
            case "or":
                each |= {key: object()}
            case "read":
                each.get(key), [*each.items()], key in each
        now = [*each.values()]
        same = len(held) == len(now) and all(a is b for a, b in zip(held, now, strict=True))
        assert before is None or same or words(each) != before


def test_another_interpreter_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        name = "other"

    monkeypatch.setattr(sys, "implementation", Other)
    for each in (container_words._lists_have_tables, container_words._dicts_have_versions):
        each.cache_clear()
    try:
        assert words([1]) is words({"w": 1}) is container_words.version_of({}) is None
    finally:
        for each in (container_words._lists_have_tables, container_words._dicts_have_versions):
            each.cache_clear()
