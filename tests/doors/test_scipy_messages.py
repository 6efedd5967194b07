"""What `fastadam.scipy.adam` says of starts and gradients that it cannot take, and what comes of doing that.

It is called by itself: ``scipy.optimize.minimize`` makes an array of a start before it hands it on.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

import numpy as np
import pytest

from tests.support.foreign import NUMPY, OTHERS

pytest.importorskip("scipy.optimize")
adam = importlib.import_module("fastadam.scipy").adam


def minimized(x0: Any = (1.0, 1.0, 1.0), jac: Any = lambda x: 2 * x) -> Any:
    return adam(lambda x: float((x**2).sum()), x0, jac=jac, maxiter=3)


def returning(value: Any) -> dict[str, Any]:
    return {"jac": lambda x: value}


@pytest.mark.parametrize(
    "value",
    [NUMPY["unit"](), NUMPY["units"](), NUMPY["masked"](), NUMPY["mask"](), OTHERS["like pint's"]()],
    ids=["unit", "units", "masked", "mask", "like pint's"],
)
@pytest.mark.parametrize("argument", ["x0", "the gradient"])
def test_units_and_masks_are_not_dropped(argument: str, value: Any) -> None:
    name = "x" if argument == "x0" else "grad"

    def call(given: Any) -> Any:
        return minimized(x0=given) if argument == "x0" else minimized(**returning(given))

    with pytest.raises(TypeError, match=f"^{argument} is .* would be ignored") as error:
        call(value)
    code = re.search(r"(?:alone|others): (.*)$|pass its (\.filled\(0\))", str(error.value))
    assert code is not None
    assert np.isfinite(call(eval(code[1] or name + code[2], {"np": np, name: value})).fun)


@pytest.mark.parametrize(
    ("x0", "error", "size"),
    [
        (np.ones((1, 3)).view(np.matrix), ValueError, 3),
        ([[1.0, 2.0]], ValueError, 2),
        (np.array([1, 2], object), TypeError, 2),
        (np.array(["1", "2"]), TypeError, 2),
        (np.array([(1.0, 2.0)], [("a", float), ("b", float)]), TypeError, 2),
        (OTHERS["exchangeable"](), TypeError, 3),
    ],
    ids=["matrix", "nested", "object", "strings", "structured", "exchangeable"],
)
def test_what_to_do_about_a_start(x0: Any, error: Any, size: int) -> None:
    with pytest.raises(error, match=r"^'?x0'? must ") as raised:
        minimized(x0=x0)
    code = re.search(r"(?:try|pass|fields:) (.*)$", str(raised.value))
    assert code is not None
    assert minimized(x0=eval(code[1], {"np": np, "x0": x0, "x": x0})).x.size == size


def test_rows_of_different_lengths() -> None:
    with pytest.raises(TypeError, match="x0 is a list, not a NumPy array; what is in it makes no array"):
        minimized(x0=[[1.0], [1.0, 2.0]])


@pytest.mark.parametrize("value", [np.ones((3, 1)), np.ones((1, 3)).view(np.matrix)], ids=["column", "matrix"])
def test_gradients_of_another_shape(value: Any) -> None:
    with pytest.raises(ValueError, match=r"the gradient must have the shape \(3,\) of x") as error:
        minimized(**returning(value))
    code = re.search(r"return (.*)$", str(error.value))
    assert code is not None
    assert minimized(**returning(eval(code[1], {"np": np, "grad": value}))).nit == 3


@pytest.mark.parametrize("value", [None, "steep", {"x": 1.0}])
def test_what_is_no_gradient(value: Any) -> None:
    with pytest.raises(TypeError, match=r"the gradient must hold real numbers, got dtype .*; give an array"):
        minimized(**returning(value))
