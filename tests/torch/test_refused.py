"""What is given in the place of tensors: messages say what to do, and it works when it is done to the letter."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastadam  # noqa: E402
import fastadam.torch  # noqa: E402
from tests.support.foreign import NUMBERS, NUMPY, OTHERS, Convertible, Exchangeable  # noqa: E402

KINDS: dict[str, Any] = {"Adam": fastadam.torch.Adam, "AdamW": fastadam.torch.AdamW}


def message(error: Any, call: Callable[[], object]) -> str:
    with pytest.raises(error) as raised:
        call()
    return str(raised.value)


@pytest.fixture(params=KINDS)
def kind(request: Any) -> Any:
    return KINDS[request.param]


@pytest.mark.parametrize("form", ["alone", "in a list", "by name", "in a group", "in a new group"])
def test_arrays_are_trained_after_following_the_message(kind: Any, form: str) -> None:
    w = np.array(NUMBERS)
    forms: dict[str, Callable[[Any], Any]] = {
        "alone": kind,
        "in a list": lambda w: kind([w], lr=0.1),
        "by name": lambda w: kind([("w", w)], lr=0.1),
        "in a group": lambda w: kind([{"params": w}], lr=0.1),
        "in a new group": lambda w: kind([torch.zeros(1)], lr=0.1).add_param_group({"params": [w]}),
    }
    text = message(TypeError, lambda: forms[form](w))
    assert re.search(r"\bparams\b", text)
    if form == "in a group":  # torch takes the array for what holds the parameters
        assert "one of the params is numpy.float64" in text
        text = message(TypeError, lambda: kind([{"params": [w]}]))
    assert "use fastadam.Adam for arrays" in text
    fastadam.Adam(w, lr=0.1).step(np.ones(3))
    np.testing.assert_allclose(w, np.array(NUMBERS) - 0.1)
    code = re.search(r"a tensor over the array: (.*)$", text)
    assert code is not None
    made = eval(code[1], {"torch": torch, "w": w})
    optimizer = kind([made], lr=0.1, weight_decay=0.0)
    made.sum().backward()
    optimizer.step()
    np.testing.assert_allclose(w, np.array(NUMBERS) - 0.2)  # the array is what was trained


OTHER = {
    **NUMPY,
    **{name: make for name, make in OTHERS.items() if name not in ("float", "int", "complex", "NumPy scalar")},
    "a Parameter": lambda: fastadam.Parameter(np.ones(3)),
    "packed": lambda: fastadam.pack([np.ones(3)]),
}


@pytest.mark.parametrize("name", OTHER)
def test_what_is_no_tensor_is_named(kind: Any, name: str) -> None:
    for call in (lambda: kind(OTHER[name]()), lambda: kind([OTHER[name]()])):
        text = message(TypeError, call)
        if (
            "one of the params is float" in text or "is int" in text or "is range" in text
        ):  # where torch says enough
            continue
        assert re.search(r"\bparams\b", text)
        assert re.search("use fastadam.Adam for arrays|go on with that|give all tensors in|give a tensor", text)


@pytest.mark.parametrize("value", [2.5, 3, np.float64(2.5)])
def test_numbers_are_trained_after_following_the_message(kind: Any, value: Any) -> None:
    code = re.search(r"go on with that: (w = .*)$", message(TypeError, lambda: kind(value)))
    assert code is not None
    names = {"torch": torch, "w": value}
    exec(code[1], names)
    optimizer = kind([names["w"]], lr=0.1, weight_decay=0.0)
    names["w"].backward()
    optimizer.step()
    assert names["w"].item() == pytest.approx(value - 0.1)


def test_mappings(kind: Any) -> None:
    w = torch.ones(3, requires_grad=True)
    for params, pattern in (
        ({"w": w}, r"names: (params\.items\(\))$"),
        ({"params": [w]}, r"in a list: (\[params\])$"),
    ):
        code = re.search(pattern, message(TypeError, lambda params=params: kind(params)))
        assert code is not None
        made = kind(eval(code[1], {"params": params}))
        assert made.param_groups[0]["params"][0] is w


def test_what_torch_takes_is_taken(kind: Any) -> None:
    """Whatever can be iterated over; tensors can be keys."""
    w = torch.ones(3, requires_grad=True)

    class Indexed:
        def __getitem__(self, index: int) -> Any:
            return [w][index]

    for params in ((each for each in [w]), {w: "a name"}, Indexed(), (w,), [("w", w)], {"w": w}.items()):
        assert kind(params).param_groups[0]["params"][0] is w


@pytest.mark.parametrize(("name", "value"), [("lr", "0.1"), ("eps", [1e-8]), ("weight_decay", "none")])
def test_options_are_named(kind: Any, name: str, value: Any) -> None:
    text = message(TypeError, lambda: kind([torch.ones(3)], **{name: value}))
    assert f"{name} must be a real number, got {value!r}" in text
    if name == "lr":
        assert message(TypeError, lambda: kind([torch.ones(3)], "0.1")) == text
    assert "unexpected keyword argument 'rate'" in message(TypeError, lambda: kind([torch.ones(3)], rate=1))
    assert "missing 1 required positional argument: 'params'" in message(TypeError, kind)


@pytest.mark.parametrize("betas", [(0.9,), [], "0.9", "x", 0.9, None, (0.9, "0.999"), (None, 0.999)])
def test_betas_are_a_pair_of_numbers(kind: Any, betas: Any) -> None:
    text = message(TypeError, lambda: kind([torch.ones(3)], betas=betas))
    assert "betas must be a pair of numbers, got" in text or "must be a real number, got" in text
    optimizer = kind([torch.ones(3)])
    assert message(TypeError, lambda: setattr(optimizer, "betas", betas)) == text
    assert optimizer.betas == (0.9, 0.999)


def test_a_warm_up_of_nothing_is_refused(kind: Any) -> None:
    text = message(ValueError, lambda: kind([torch.ones(3)], ema_warmup=True))
    assert "ema_warmup=True needs ema_decay, such as ema_decay=0.999" in text
    optimizer = kind([torch.ones(3)], ema_warmup=True, ema_decay=0.999)
    optimizer.ema_decay = None
    twin = copy.deepcopy(optimizer)
    assert (twin.ema_decay, twin.ema_warmup) == (None, True)


def test_arrays_to_clip() -> None:
    grad = np.array([3.0, 4.0])
    clip = fastadam.torch.clip_grad_norm_
    text = message(AttributeError, lambda: clip([torch.ones(2), grad], 1.0))
    assert "parameters[1] is a numpy.ndarray, not a tensor" in text
    code = re.search(r"with (fastadam\.clip_grad_norm)$", text)
    assert code is not None
    assert eval(code[1])([grad], 1.0) == 5.0
    assert np.linalg.norm(grad) == pytest.approx(1.0, rel=1e-5)
    for value in (Convertible(NUMBERS), Exchangeable(NUMBERS)):
        assert "fastadam.clip_grad_norm" in message(AttributeError, lambda value=value: clip([value], 1.0))
    for value in ("w", None, 1.0, [torch.ones(2)]):
        text = message(AttributeError, lambda value=value: clip([value], 1.0))
        assert re.search(r"parameters\[0\] is .*, not a tensor; (give|make)", text)


def test_tensors_for_the_arrays_face() -> None:
    """The other way round: they are trained after following the message."""
    w = torch.ones(3, dtype=torch.float64, requires_grad=True)
    for call in (lambda: fastadam.Adam([w]), lambda: fastadam.Adam(w), lambda: fastadam.Parameter(w)):
        text = message(TypeError, call)
        assert "use fastadam.torch.Adam for torch tensors" in text
        code = re.search(r"or pass (.*?), which shares", text)
        assert code is not None
        before = w.detach().clone()
        fastadam.Adam([eval(code[1], {"w": w})], lr=0.1).step([np.ones(3)])
        torch.testing.assert_close(w.detach(), before - 0.1)
    text = message(TypeError, lambda: fastadam.clip_grad_norm([torch.ones(3)], 1.0))
    assert "use fastadam.torch.clip_grad_norm_ for torch tensors" in text
