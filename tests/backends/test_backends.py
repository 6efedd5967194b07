"""The backends: which are there, what an extension must have been built from, instruction sets."""

from __future__ import annotations

import numpy as np
import pytest

import fastadam
from fastadam import backends
from fastadam.backends import c
from fastadam.memory import native, structs
from fastadam.memory.structs import SPAN
from tests.conftest import AVAILABLE, STATES

needs_c = pytest.mark.skipif("c" not in AVAILABLE, reason=STATES["c"])


def test_available_backends_lists_all_in_order() -> None:
    assert list(STATES) == ["c", "numba", "numpy", "cuda"]
    assert STATES["numpy"] == "available"


def test_auto_takes_the_first_one_available() -> None:
    assert fastadam.Adam(np.ones(1)).backend == AVAILABLE[0]


def test_a_named_backend_is_the_one_used(backend: str) -> None:
    assert fastadam.Adam(np.ones(1), backend=backend).backend == backend


def test_a_missing_backend_raises_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.load("numba"), "why_missing", lambda: "no luck today")
    with pytest.raises(fastadam.BackendUnavailableError, match="'numba' is not available: no luck today"):
        fastadam.Adam(np.ones(1), backend="numba")
    assert fastadam.available_backends()["numba"] == "no luck today"


@needs_c
def test_an_extension_that_was_built_for_other_structs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an update of the source without a new build: it would read and write anywhere."""
    monkeypatch.setattr(c, "why_missing", c.why_missing.__wrapped__)  # which keeps no answer
    longer = np.dtype([*SPAN.dtype.descr, ("more", np.int64)])
    for name, dtype in (("fastadam_span", longer), ("fastadam_new", SPAN.dtype)):
        with monkeypatch.context() as patch:
            patch.setitem(c.STRUCTS, name, dtype)
            assert "pip install" in fastadam.available_backends()["c"]
            with pytest.raises(fastadam.BackendUnavailableError, match=f"built from another source.*{name}"):
                fastadam.Adam(np.ones(1), backend="c")
    assert fastadam.available_backends()["c"] == "available"


def test_auto_falls_back_to_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("c", "numba"):
        monkeypatch.setattr(backends.load(name), "why_missing", lambda: "away")
    assert fastadam.Adam(np.ones(1)).backend == "numpy"


@needs_c
@pytest.mark.parametrize("struct", c.STRUCTS)
def test_structs_have_the_layout_of_the_numpy_dtypes(struct: str) -> None:
    assert c.other_struct({struct: c.STRUCTS[struct]}) is None


@needs_c
def test_an_extension_that_was_built_for_other_constants_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c, "why_missing", c.why_missing.__wrapped__)  # which keeps no answer
    other = native.Constants("Another block.", {"BLOCK": 2 * structs.BLOCK})
    monkeypatch.setattr(c, "CONSTANTS", [*native.CONSTANTS, other])
    with pytest.raises(fastadam.BackendUnavailableError, match=r"built from another source.*FASTADAM_BLOCK"):
        fastadam.Adam(np.ones(1), backend="c")


@needs_c
def test_instruction_sets_can_be_forced(instruction_set: str) -> None:
    assert c.instruction_set() == instruction_set


@needs_c
def test_an_instruction_set_that_is_missing_is_refused() -> None:
    before = c.instruction_set()
    with pytest.raises(ValueError, match="'mmx' is not available here; this processor has baseline"):
        c.use_instruction_set("mmx")
    assert c.instruction_set() == before


@needs_c
def test_the_best_instruction_set_is_the_default() -> None:
    assert c.instruction_set() == c.instruction_sets()[-1]
