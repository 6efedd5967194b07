"""Messages say what to do, and it works: each remedy is followed to the letter, as code from the message."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastadam
from tests.support.bits import assert_same_bits
from tests.support.foreign import LAYOUTS, LIBRARIES, NUMBERS, NUMPY, OTHERS, Convertible

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries

EVERY = {**NUMPY, **LAYOUTS, **OTHERS, **LIBRARIES}


def make(name: str, folder: Path) -> Any:
    maker = EVERY[name]
    found = maker(folder) if inspect.signature(maker).parameters else maker()
    return found


def follow(message: str, name: str, value: Any) -> tuple[Any, Any]:
    """Do what a message says about the user's variable; return what the call is to get, and the variable then."""
    names = {"np": np, name: value}
    if "import ml_dtypes" in message:
        names["ml_dtypes"] = pytest.importorskip("ml_dtypes")
    rebound = re.search(rf": ({name} = .*)$", message)
    if rebound:
        exec(rebound[1], names)
        return names[name], names[name]
    for pattern, code in (
        (r"pass its (\.\w+(?:\(0\))?)", name + "{}"),
        (r"(?:alone|apart|others): (.*?)(?:; use None.*)?$", "{}"),
        (r"(?:pass|convert it with|such as) (.*?)(?:[;,] (?:which|use|in|or)\b.*)?$", "{}"),
    ):
        found = re.search(pattern, message)
        if found:
            return eval(code.format(found[1]), names), value
    raise AssertionError(f"no remedy: {message}")


def accepted(call: Callable[[Any], Any], name: str, value: Any) -> tuple[Any, Any, Any]:
    """Call with a value and what messages say to give in its place, until it is taken.

    Returns what the call has returned, what it got, and the variable that the user goes on with.
    """
    given, variable = value, value
    for _ in range(3):
        returned, refused = attempt(call, given)
        if refused is None:
            return returned, given, variable
        given, new = follow(refused, name, given)
        variable = new if new is given else variable
    return call(given), given, variable


def attempt(call: Callable[[Any], Any], value: Any) -> tuple[Any, str | None]:
    """Return what a call returns, or the message with which it refuses the value."""
    try:
        return call(value), None
    except (TypeError, ValueError) as error:
        return None, str(error)


def numbers_of(value: Any) -> list[Any]:
    """Return the arrays that a user finds in a variable, without a unit or a mask."""
    if isinstance(value, dict):
        return [np.asarray(each) for each in value.values()]
    if isinstance(value, np.ndarray):
        return [np.ndarray.view(value, np.ndarray)]
    return [np.asarray(getattr(value, "magnitude", value))]


FORMS: dict[str, Callable[[Any], Any]] = {
    "alone": lambda w: fastadam.Adam(w, lr=0.1),
    "in a list": lambda w: fastadam.Adam([w] if not isinstance(w, dict) else w, lr=0.1),
    "by name": lambda w: fastadam.Adam({"w": w}, lr=0.1),
    "in a group": lambda w: fastadam.Adam([{"params": w, "lr": 0.1}]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", EVERY)
def test_parameters_are_trained_after_following_the_message(name: str, form: str, tmp_path: Path) -> None:
    value = make(name, tmp_path)
    with pytest.raises((TypeError, ValueError)):
        FORMS[form](value)
    optimizer, given, variable = accepted(FORMS[form], "w", value)
    arrays = numbers_of(given)
    before = [array.copy() for array in numbers_of(variable)]
    optimizer.step([np.ones(array.shape, array.dtype) for array in arrays])
    after = numbers_of(variable)
    assert before
    for old, new in zip(before, after, strict=True):  # the user reads what was trained
        np.testing.assert_allclose(new, old - np.asarray(0.1, old.dtype), rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "structured"])
def test_a_parameter_object_is_made_after_following_the_message(name: str, tmp_path: Path) -> None:
    value = make(name, tmp_path)
    with pytest.raises((TypeError, ValueError), match=r"^data (is|has|of)"):
        fastadam.Parameter(value)
    made, _, variable = accepted(fastadam.Parameter, "w", value)
    made.grad = np.ones(made.data.shape, made.data.dtype)
    (before,) = [array.copy() for array in numbers_of(variable)]
    fastadam.Adam([made], lr=0.1).step()
    np.testing.assert_allclose(numbers_of(variable)[0], before - np.asarray(0.1, before.dtype), rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in EVERY if name not in LAYOUTS and name != "JAX on NumPy"])
def test_what_is_packed_after_following_the_message(name: str, tmp_path: Path) -> None:
    """It is copied, and users go on with its views, so that copies may be given."""
    value = make(name, tmp_path)
    pack: Callable[[Any], Any] = lambda x: fastadam.pack(x if isinstance(x, dict) else [x])  # noqa: E731
    with pytest.raises(TypeError):
        pack(value)
    flat, _, _ = accepted(pack, "x", value)
    before = flat.param.copy()
    flat.grad[...] = 1
    fastadam.Adam(flat, lr=0.1).step()
    np.testing.assert_allclose(flat.param, before - np.asarray(0.1, before.dtype), rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in EVERY if not name.startswith(("torch", "structured"))])
def test_gradients_are_clipped_after_following_the_message(name: str, tmp_path: Path) -> None:
    value = make(name, tmp_path)
    try:
        fastadam.clip_grad_norm([value], 0.5)
    except (TypeError, ValueError):
        norm, given, variable = accepted(lambda g: fastadam.clip_grad_norm([g], 0.5), "g", value)
        assert norm >= 1.5
        assert np.linalg.norm(numbers_of(given)[0]) == pytest.approx(0.5, rel=1e-3)
        assert np.linalg.norm(numbers_of(variable)[0]) == pytest.approx(0.5, rel=1e-3)
    else:
        assert name in LAYOUTS


WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "in a list": lambda optimizer, grad: optimizer.step([grad]),
    "alone": lambda optimizer, grad: optimizer.step(grad),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [name for name in EVERY if name != "complex"])
def test_gradients_are_taken_after_following_the_message(
    name: str, dtype: str, way: str, tmp_path: Path, backend: str
) -> None:
    value = make(name, tmp_path)
    shape = np.shape(value if not hasattr(value, "toarray") else value.toarray())
    if hasattr(value, "numbers"):
        shape = value.numbers.shape
    params, expected = np.ones(shape, dtype), np.ones(shape, dtype)
    optimizer = fastadam.Adam(params, lr=0.1, backend=backend)
    _, refused = attempt(lambda grad: WAYS[way](optimizer, grad), value)
    if refused is not None:
        assert re.match(r"grads|the gradient of parameter 0 ", refused)
        assert len(optimizer.state) == 0
        assert (params == 1).all()
        _, value, _ = accepted(lambda grad: WAYS[way](optimizer, grad), "grad", value)
    fastadam.Adam(expected, lr=0.1, backend=backend).step([np.array(value)])
    assert_same_bits(params, expected)
    assert (params < 1).sum() >= params.size - 1  # 0 stands for what was masked


SHAPED: dict[str, tuple[tuple[int, ...], Any]] = {
    "a matrix": ((3,), np.array([NUMBERS]).view(np.matrix)),
    "a column": ((3,), np.array(NUMBERS)[:, None]),
    "a row for a column": ((3, 1), np.array(NUMBERS)),
    "the transpose": ((3, 2), np.array([NUMBERS, NUMBERS])),
    "a number": ((1,), 2.0),
    "one in a list": ((1,), [2.0]),
    "a NumPy scalar": ((1, 1), np.float64(2.0)),
}


@pytest.mark.parametrize("name", SHAPED)
def test_gradients_of_another_shape(name: str) -> None:
    shape, value = SHAPED[name]
    params, expected = np.ones(shape), np.ones(shape)
    optimizer = fastadam.Adam([params])
    step: Callable[[Any], Any] = lambda grad: optimizer.step([grad])  # noqa: E731
    with pytest.raises((TypeError, ValueError)):
        step(value)
    _, given, _ = accepted(step, "grad", value)
    fastadam.Adam([expected]).step([np.array(given)])
    assert_same_bits(params, expected)


def test_a_complex_gradient_of_a_real_parameter() -> None:
    params = np.ones(3)
    optimizer = fastadam.Adam(params, lr=0.1)
    accepted(lambda grad: optimizer.step([grad]), "grad", np.ones(3) + 1j)
    np.testing.assert_allclose(params, 0.9)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("w", "is a str, not a NumPy array; give an array in the place of 'w'"),
        (None, "is None, not a NumPy array"),
        (np.ones(3, "M8[s]"), "has dtype datetime64.*; give an array of numbers|give an array of numbers"),
        (Convertible, "is a type, not a NumPy array; give an array in the place of <class"),
    ],
)
def test_what_is_no_array_at_all(value: Any, words: str) -> None:
    for call in (fastadam.Parameter, lambda value: fastadam.pack({"w": value})):
        with pytest.raises(TypeError, match=words):
            call(value)
    params = np.ones(3)
    if value is not None:
        with pytest.raises(TypeError, match=words):
            fastadam.Adam([params]).step([value])


def test_rows_of_different_lengths() -> None:
    rows: Any = [[1.0], [1.0, 2.0]]
    words = "is a list, not a NumPy array; what is in it makes no array of numbers; give each array by itself"
    with pytest.raises(TypeError, match=words):
        fastadam.Parameter(rows)
    with pytest.raises(TypeError, match=words):
        fastadam.Adam([np.ones(3)]).step([rows])


class Matrix(np.ndarray):
    """A subclass of a user's, with notes that say nothing of the numbers, and a unit that is none."""

    unit = None
    note = "weights of the first layer"


class Unset(np.ndarray):
    """A subclass with a slot that was not set."""

    __slots__ = ("unit",)


@pytest.mark.parametrize("kind", [np.matrix, np.memmap, np.recarray, Matrix, Unset])
def test_subclasses_without_another_meaning_are_trained_as_they_are(
    kind: Any, backend: str, tmp_path: Path
) -> None:
    values, expected = np.ones((2, 3)), np.ones((2, 3))
    params: Any = values.view(kind)
    if kind is np.memmap:
        params = np.memmap(tmp_path / "weights", float, "w+", shape=(2, 3))
        params[...] = 1
    optimizer = fastadam.Adam([params], lr=0.1, backend=backend)
    other = fastadam.Adam([expected], lr=0.1, backend=backend)
    for scale in (1.0, -3.0):
        grad = np.arange(6.0).reshape(2, 3) * scale
        optimizer.step([grad.view(kind)])
        other.step([grad])
    assert_same_bits(np.asarray(params), expected)
    assert type(params) is kind


def test_the_unit_of_a_gradient_is_not_dropped() -> None:
    """The same gradient in two units is not the same step."""
    units = pytest.importorskip("astropy.units")
    length = np.ones(3) * units.m
    values = length.view(np.ndarray)
    optimizer = fastadam.Adam([values], lr=0.1)
    grad = np.full(3, 1000.0) / units.km
    with pytest.raises(TypeError, match=r"is an astropy\.Quantity with the unit 1 / km, which would be ignored"):
        optimizer.step([grad])
    grad = grad.to(1 / units.m)
    optimizer.step([np.ndarray.view(grad, np.ndarray)])
    np.testing.assert_allclose(length.to_value(units.m), 0.9)


class Foreign(np.ndarray):
    """A subclass whose own code must not run while a step is checked."""

    calls = 0

    @property
    def note(self) -> str:
        Foreign.calls += 1
        return ""

    def __getattr__(self, name: str) -> Any:
        Foreign.calls += 1
        raise AttributeError(name)

    def __getattribute__(self, name: str) -> Any:
        if name in ("unit", "units", "mask", "__dict__", "__class__"):
            Foreign.calls += 1
        return super().__getattribute__(name)


def test_looking_for_a_unit_runs_nobodys_code(backend: str) -> None:
    optimizer = fastadam.Adam([np.ones(3)], backend=backend)
    grad = np.ones(3).view(Foreign)
    Foreign.calls = 0
    optimizer.step([grad])
    assert Foreign.calls == 0


class Silent:
    """What cannot say what it is."""

    def __repr__(self) -> str:
        raise RuntimeError("no words")


def test_values_that_cannot_be_shown_are_named() -> None:
    with pytest.raises(TypeError, match=r"give an array in the place of <tests.Silent>"):
        fastadam.Parameter(Silent())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"lr must be a real number, got <tests.Silent> of type Silent"):
        fastadam.Adam([np.ones(3)], lr=Silent())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "call",
    [
        lambda long: fastadam.Adam(long),
        lambda long: fastadam.Parameter(long),
        lambda long: fastadam.pack([long]),
        lambda long: fastadam.Adam([np.ones(3)]).step(long),
        lambda long: fastadam.Adam([np.ones(3)]).step([long]),
        lambda long: fastadam.Adam([np.ones(3)], lr=long),
        lambda long: fastadam.Adam([np.ones(3)], betas=long),
        lambda long: fastadam.Adam([np.ones(3)], amsgrad=long),
        lambda long: fastadam.clip_grad_norm(long, 1.0),
        lambda long: fastadam.clip_grad_norm([np.ones(3)], long),
    ],
)
@pytest.mark.parametrize("long", [["x"] * 10_000, "x" * 10_000], ids=["list", "string"])
def test_long_values_are_shortened(call: Callable[[Any], Any], long: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as raised:
        call(long)
    assert len(str(raised.value)) < 500


def test_one_is_singular() -> None:
    one, three = np.ones(3), [np.ones(3) for _ in range(3)]
    with pytest.raises(ValueError, match="grads has 1 item, but there are 3 parameters"):
        fastadam.Adam(three).step([one])
    with pytest.raises(ValueError, match="grads has 3 items, but there is 1 parameter"):
        fastadam.Adam([one]).step(three)
    with pytest.raises(TypeError, match="grads is one array, but there are 3 parameters"):
        fastadam.Adam(three).step(one)
    with pytest.raises(ValueError, match="has 1 item, and the parameters there have 3"):
        fastadam.Adam({"layers": three}).step({"layers": [one]})
    optimizer = fastadam.Adam([{"params": one.copy()}, {"params": one.copy()}])
    with pytest.raises(ValueError, match="the state dict has 1 parameter group, the optimizer has 2"):
        optimizer.load_state_dict(fastadam.Adam(one).state_dict())
    del optimizer.param_groups[1]
    with pytest.raises(ValueError, match="param_groups has 1 entry, the optimizer made 2"):
        optimizer.step([one, one])
    assert "Parameter Group 0: 1 parameter\n" in repr(fastadam.Adam(one))
    assert repr(fastadam.pack([one])) == "<fastadam.Packed: 1 array, 3 x float64>"


@pytest.mark.parametrize(("saved", "here"), [("float64", "float32"), ("float32", "float64")])
def test_a_state_of_another_dtype_is_loaded_after_following_the_message(saved: str, here: str) -> None:
    def stepped(dtype: str) -> fastadam.Adam:
        optimizer = fastadam.Adam({"a": np.ones(3, dtype), "b": np.ones(2, dtype)}, amsgrad=True)
        optimizer.step({"a": np.full(3, 0.5, dtype), "b": np.full(2, 2.0, dtype)})
        return optimizer

    optimizer = fastadam.Adam({"a": np.ones(3, here), "b": np.ones(2, here)}, amsgrad=True)
    state_dict = stepped(saved).state_dict()
    for _ in range(2):  # one parameter after the other
        with pytest.raises(TypeError, match=r"state dict, parameter '[ab]': exp_avg has dtype") as raised:
            optimizer.load_state_dict(state_dict)
        assert len(optimizer.state) == 0
        code = re.search(r"load that: (.*)$", str(raised.value))
        assert code is not None
        exec(code[1], {"np": np, "state_dict": state_dict})
    optimizer.load_state_dict(state_dict)
    assert optimizer.state["a"]["exp_avg"].dtype == here
    np.testing.assert_allclose(optimizer.state["b"]["exp_avg"], 0.2, rtol=1e-6)


@pytest.mark.parametrize("name", ["masked", "unit", "units", "unit in a slot", "mask"])
def test_a_state_that_is_more_than_its_numbers(name: str, tmp_path: Path) -> None:
    optimizer = fastadam.Adam([np.ones(3)])
    optimizer.step([np.ones(3)])
    state_dict = optimizer.state_dict()
    moment = make(name, tmp_path)

    def load(x: Any) -> None:
        state_dict["state"][0]["exp_avg"] = x
        optimizer.load_state_dict(state_dict)

    with pytest.raises(TypeError, match=r"exp_avg is .* which would be ignored|whose mask would be ignored"):
        load(moment)
    np.testing.assert_allclose(optimizer.state[0]["exp_avg"], 0.1)
    accepted(load, "x", moment)
    assert optimizer.state[0]["exp_avg"][0] == 1.0
