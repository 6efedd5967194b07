"""Schedules: their values, at hand, against optax's and torch's; what they refuse; and what they are as values."""

from __future__ import annotations

import copy
import json
import math
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastadam
from fastadam import schedules
from fastadam.schedules import (
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    Join,
    Linear,
    OneCycle,
    Polynomial,
    Schedule,
    Step,
    Warmup,
)

# Each with values that were worked out by hand, at steps counted from 1.
KNOWN: dict[str, tuple[Schedule, dict[int, float]]] = {
    "constant": (Constant(0.25), {1: 0.25, 10**12: 0.25}),
    "linear": (Linear(1.0, 0.5, 4), {1: 1.0, 2: 0.875, 3: 0.75, 4: 0.625, 5: 0.5, 6: 0.5, 10**9: 0.5}),
    "linear, later": (Linear(0.0, 1.0, 2, begin=3), {1: 0.0, 4: 0.0, 5: 0.5, 6: 1.0, 7: 1.0}),
    "polynomial": (Polynomial(1.0, 0.0, 4, power=2.0), {1: 1.0, 2: 0.5625, 3: 0.25, 4: 0.0625, 5: 0.0, 9: 0.0}),
    "polynomial, later": (Polynomial(1.0, 0.5, 2, power=2.0, begin=1), {1: 1.0, 2: 1.0, 3: 0.625, 4: 0.5}),
    "exponential": (Exponential(1.0, 0.25, every=2), {1: 1.0, 2: 0.5, 3: 0.25, 4: 0.125}),
    "exponential, staircase": (
        Exponential(8.0, 0.5, every=2, begin=1, staircase=True),
        {1: 8.0, 2: 8.0, 3: 8.0, 4: 4.0, 5: 4.0, 6: 2.0},
    ),
    "exponential, down to": (Exponential(1.0, 0.5, end=0.3), {1: 1.0, 2: 0.5, 3: 0.3, 4000: 0.3}),
    "exponential, up to": (Exponential(1.0, 2.0, end=5.0), {1: 1.0, 2: 2.0, 3: 4.0, 4: 5.0, 10**6: 5.0}),
    "step": (Step(1.0, {2: 0.5, 4: 0.1}), {1: 1.0, 2: 1.0, 3: 0.5, 4: 0.5, 5: 0.05, 99: 0.05}),
    "step, at once": (Step(1.0, [(3, 2.0), (0, 0.5)]), {1: 0.5, 3: 0.5, 4: 1.0}),
    "cosine": (Cosine(1.0, 4, end=0.5), {1: 1.0, 2: 0.75 + math.sqrt(2) / 8, 3: 0.75, 5: 0.5, 6: 0.5}),
    "cosine, exponent": (Cosine(1.0, 2, exponent=2.0), {1: 1.0, 2: 0.25, 3: 0.0}),
    "restarts": (CosineRestarts(1.0, 2), {1: 1.0, 2: 0.5, 3: 1.0, 4: 0.5, 2 * 10**9 + 1: 1.0}),
    "restarts, longer and lower": (
        CosineRestarts(1.0, 2, growth=2, decay=0.5, end=0.25),
        {1: 1.0, 2: 0.625, 3: 0.5, 5: 0.375, 7: 0.25, 11: 0.25, 15: 0.125},
    ),
    "one cycle": (OneCycle(1.0, 10, 0.2, 4.0, 5.0), {1: 0.25, 2: 0.625, 3: 1.0, 7: 0.525, 11: 0.05, 12: 0.05}),
    "one cycle, three lines": (
        OneCycle(1.0, 10, 0.2, 4.0, 5.0, anneal="linear", pct_final=0.6),
        {1: 0.25, 2: 0.625, 3: 1.0, 5: 0.625, 7: 0.25, 9: 0.15, 11: 0.05, 12: 0.05},
    ),
    "one cycle, no rise": (OneCycle(1.0, 2, 0.0, 4.0, 5.0, anneal="linear"), {1: 1.0, 2: 0.525, 3: 0.05}),
    "join": (
        Join([Linear(0.0, 1.0, 2), 3.0, Step(1.0, {1: 0.5})], [2, 3]),
        {1: 0.0, 2: 0.5, 3: 3.0, 4: 1.0, 5: 0.5},
    ),
    "join, one": (Join([0.5], []), {1: 0.5, 7: 0.5}),
    "warm-up": (Warmup(Linear(1.0, 0.0, 2), 2), {1: 0.0, 2: 0.5, 3: 1.0, 4: 0.5, 5: 0.0}),
    "warm-up of a number": (Warmup(2.0, 2, start=1.0), {1: 1.0, 2: 1.5, 3: 2.0, 9: 2.0}),
    "no warm-up": (Warmup(Cosine(1.0, 2), 0), {1: 1.0, 2: 0.5}),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_values(name: str) -> None:
    schedule, values = KNOWN[name]
    for step, value in values.items():
        found = schedule(step)
        assert type(found) is float
        assert found == pytest.approx(value, rel=1e-15, abs=1e-16), step


@pytest.mark.parametrize("name", KNOWN)
def test_a_schedule_is_a_value(name: str) -> None:
    schedule, _ = KNOWN[name]
    again = eval(repr(schedule), vars(schedules).copy())
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert copy.copy(schedule) == copy.deepcopy(schedule) == schedule
    assert schedules.from_dict(schedule.to_dict()) == schedule
    assert schedules.from_dict(json.loads(json.dumps(schedule.to_dict(), allow_nan=False))) == schedule
    assert all(schedule != other for key, (other, _) in KNOWN.items() if key != name)
    field = schedule._fields[0]
    with pytest.raises(AttributeError, match=f"{field} of a schedule cannot be assigned; make a new schedule"):
        setattr(schedule, field, 1.0)
    with pytest.raises(AttributeError, match="cannot be deleted"):
        delattr(schedule, field)
    with pytest.raises(AttributeError):
        schedule.other = 1.0  # type: ignore[attr-defined]
    assert again == schedule


def test_values_are_plain_whatever_they_were_given_as() -> None:
    given = Linear(np.float32(0.5), 1, np.int64(4))  # type: ignore[arg-type]
    assert repr(given) == "Linear(start=0.5, end=1.0, steps=4, begin=0)"
    assert given == Linear(0.5, 1.0, 4)
    assert Linear(0.5, 1.0, 4) != Polynomial(0.5, 1.0, 4)
    assert Linear(0.5, 1.0, 4) != (0.5, 1.0, 4, 0)
    assert Step(1.0, {2: 0.5, 1: 0.1}) == Step(1.0, [(1, 0.1), (2, 0.5)])


# Ours, and what makes optax's.
OPTAX: dict[str, tuple[Schedule, Callable[[Any], Callable[[int], Any]]]] = {
    "constant": (Constant(0.3), lambda o: o.constant_schedule(0.3)),
    "linear": (Linear(0.3, 0.01, 17, 5), lambda o: o.linear_schedule(0.3, 0.01, 17, 5)),
    "polynomial": (Polynomial(0.3, 0.01, 17, 2.5, 5), lambda o: o.polynomial_schedule(0.3, 0.01, 2.5, 17, 5)),
    "exponential": (Exponential(0.3, 0.7, 6, 4), lambda o: o.exponential_decay(0.3, 6, 0.7, 4)),
    "exponential, staircase": (
        Exponential(0.3, 0.7, 6, 4, True, 0.1),
        lambda o: o.exponential_decay(0.3, 6, 0.7, 4, True, 0.1),
    ),
    "exponential, up": (
        Exponential(0.3, 1.7, 6, 0, False, 2.0),
        lambda o: o.exponential_decay(0.3, 6, 1.7, end_value=2.0),
    ),
    "step": (Step(0.3, {3: 0.5, 11: 0.1}), lambda o: o.piecewise_constant_schedule(0.3, {3: 0.5, 11: 0.1})),
    "cosine": (Cosine(0.3, 23, 0.03), lambda o: o.cosine_decay_schedule(0.3, 23, 0.1)),
    "cosine, exponent": (Cosine(0.3, 23, 0.03, 1.7), lambda o: o.cosine_decay_schedule(0.3, 23, 0.1, 1.7)),
    "restarts": (
        CosineRestarts(0.3, 5, 2, 0.5, 0.01),
        lambda o: o.sgdr_schedule(
            [
                {
                    "init_value": 0.0,
                    "peak_value": 0.3 * 0.5**i,
                    "warmup_steps": 0,
                    "decay_steps": 5 * 2**i,
                    "end_value": 0.01,
                }
                for i in range(4)
            ]
        ),
    ),
    "one cycle": (OneCycle(0.3, 40), lambda o: o.cosine_onecycle_schedule(40, 0.3)),
    "one cycle, others": (
        OneCycle(0.3, 37, 0.4, 10.0, 100.0),
        lambda o: o.cosine_onecycle_schedule(37, 0.3, 0.4, 10.0, 100.0),
    ),
    "one cycle, lines": (
        OneCycle(0.3, 37, anneal="linear", pct_final=0.85),
        lambda o: o.linear_onecycle_schedule(37, 0.3),
    ),
    "warm-up": (Warmup(0.3, 7), lambda o: o.warmup_constant_schedule(0.0, 0.3, 7)),
    "warm-up, cosine": (
        Warmup(Cosine(0.3, 20, 0.03), 7, 0.1),
        lambda o: o.warmup_cosine_decay_schedule(0.1, 0.3, 7, 27, 0.03),
    ),
    "warm-up, exponential": (
        Warmup(Exponential(0.3, 0.7, 6, 2, True), 7, 0.1),
        lambda o: o.warmup_exponential_decay_schedule(0.1, 0.3, 7, 6, 0.7, 2, True),
    ),
    "join": (
        Join([Warmup(0.3, 4), Cosine(0.2, 9), Constant(0.05)], [6, 18]),
        lambda o: o.join_schedules(
            [o.warmup_constant_schedule(0.0, 0.3, 4), o.cosine_decay_schedule(0.2, 9), o.constant_schedule(0.05)],
            [6, 18],
        ),
    ),
}


@pytest.mark.parametrize("name", OPTAX)
def test_values_are_those_of_optax_which_counts_from_0(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optax = pytest.importorskip("optax")
        import jax
    ours, make = OPTAX[name]
    jax.config.update("jax_enable_x64", True)
    try:
        theirs = make(optax)
        for step in range(1, 60):
            # Sums of a few numbers at most as large as the greatest rate, each rounded once or twice.
            assert ours(step) == pytest.approx(float(theirs(step - 1)), rel=1e-13, abs=1e-15), step
    finally:
        jax.config.update("jax_enable_x64", False)


def torch_cases(lr_scheduler: Any) -> dict[str, tuple[Schedule, Callable[[Any], Any]]]:
    """Return ours and what makes torch's, for the learning rate 0.3, in the table of the module's docstring."""
    return {
        "ConstantLR": (Join((0.3 * 0.25, 0.3), (5,)), lambda o: lr_scheduler.ConstantLR(o, 0.25, 5)),
        "LinearLR": (Linear(0.3 * 0.25, 0.3, 8), lambda o: lr_scheduler.LinearLR(o, 0.25, 1.0, 8)),
        "PolynomialLR": (Polynomial(0.3, 0.0, 12, 2.0), lambda o: lr_scheduler.PolynomialLR(o, 12, 2.0)),
        "ExponentialLR": (Exponential(0.3, 0.9), lambda o: lr_scheduler.ExponentialLR(o, 0.9)),
        "StepLR": (Exponential(0.3, 0.5, every=4, staircase=True), lambda o: lr_scheduler.StepLR(o, 4, 0.5)),
        "MultiStepLR": (Step(0.3, dict.fromkeys((3, 9), 0.5)), lambda o: lr_scheduler.MultiStepLR(o, [3, 9], 0.5)),
        "CosineAnnealingLR": (Cosine(0.3, 20, end=0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, 20, 0.1)),
        "CosineAnnealingWarmRestarts": (
            CosineRestarts(0.3, 3, growth=2, end=0.1),
            lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3, 2, 0.1),
        ),
        # Torch's corners are at pct_start * total_steps - 1 and total_steps - 1.
        "OneCycleLR": (OneCycle(0.3, 20, 5 / 20), lambda o: lr_scheduler.OneCycleLR(o, 0.3, 21, pct_start=6 / 21)),
        "SequentialLR": (
            Join([Linear(0.03, 0.3, 4), Exponential(0.3, 0.9)], [4]),
            lambda o: lr_scheduler.SequentialLR(
                o, [lr_scheduler.LinearLR(o, 0.1, 1.0, 4), lr_scheduler.ExponentialLR(o, 0.9)], [4]
            ),
        ),
    }


@pytest.mark.filterwarnings("ignore:The epoch parameter in:UserWarning")  # torch's own SequentialLR warns of it
@pytest.mark.parametrize(
    "name",
    [
        "ConstantLR",
        "LinearLR",
        "PolynomialLR",
        "ExponentialLR",
        "StepLR",
        "MultiStepLR",
        "CosineAnnealingLR",
        "CosineAnnealingWarmRestarts",
        "OneCycleLR",
        "SequentialLR",
    ],
)
def test_the_counterparts_of_torchs_schedulers(name: str) -> None:
    torch = pytest.importorskip("torch")
    ours, make = torch_cases(torch.optim.lr_scheduler)[name]
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    scheduler = make(optimizer)
    for step in range(1, 21):
        assert ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12), step
        optimizer.step()
        scheduler.step()
    assert name in (schedules.__doc__ or "")


BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: Constant("fast"), TypeError, "value must be a real number, got 'fast' of type str"),  # type: ignore[arg-type]
    (lambda: Constant(True), TypeError, "value must be a real number, got True"),
    (lambda: Constant(-1.0), ValueError, r"value must be at least 0, got -1.0"),
    (lambda: Constant(math.nan), ValueError, "value must be finite, got nan"),
    (lambda: Constant(10**400), ValueError, "value must be finite"),
    (lambda: Linear(1.0, 0.0, 0), ValueError, "steps must be at least 1, got 0"),
    (
        lambda: Linear(1.0, 0.0, 2.5),
        TypeError,
        "steps must be a whole number, got 2.5 of type float; give it as an int",
    ),  # type: ignore[arg-type]
    (lambda: Linear(1.0, 0.0, 3, begin=-1), ValueError, "begin must be at least 0, got -1"),
    (lambda: Polynomial(1.0, 0.0, 3, power=0.0), ValueError, "power must be more than 0, got 0.0"),
    (lambda: Exponential(1.0, 0.0), ValueError, "factor must be more than 0, got 0.0"),
    (lambda: Exponential(1.0, 0.5, staircase=1), TypeError, "staircase must be True or False, got 1"),  # type: ignore[arg-type]
    (lambda: Exponential(1.0, 0.5, every=True), TypeError, "every must be a whole number, got True"),
    (lambda: Step(1.0, {2.5: 0.1}), TypeError, "a step in scales must be a whole number, got 2.5"),  # type: ignore[dict-item]
    (lambda: Step(1.0, {2: -0.1}), ValueError, "a factor in scales must be at least 0"),
    (lambda: Step(1.0, [(2, 0.5), (2, 0.5)]), ValueError, "scales has the step 2 twice; give it once"),
    (lambda: Step(1.0, 3), TypeError, r"scales must map steps to factors, got 3; try \{30: 0.1, 80: 0.1\}"),  # type: ignore[arg-type]
    (lambda: Cosine(1.0, 3, exponent=-1.0), ValueError, "exponent must be more than 0"),
    (lambda: CosineRestarts(1.0, 3, growth=0), ValueError, "growth must be at least 1, got 0"),
    (lambda: CosineRestarts(1.0, 3, decay=1.5), ValueError, r"decay must be in \[0, 1\], got 1.5"),
    (lambda: OneCycle(1.0, 3, pct_start=2.0), ValueError, r"pct_start must be in \[0, 1\]"),
    (lambda: OneCycle(1.0, 3, anneal="cos"), ValueError, "anneal must be 'cosine' or 'linear', got 'cos'"),
    (
        lambda: OneCycle(1.0, 3, 0.5, pct_final=0.25),
        ValueError,
        r"pct_final must be at least pct_start \(0.5\), got 0.25",
    ),
    (lambda: Join([], []), ValueError, "boundaries must be one less than schedules, got 0 for 0"),
    (lambda: Join([1.0, 2.0], []), ValueError, "boundaries must be one less than schedules, got 0 for 2"),
    (lambda: Join([1.0, 2.0, 3.0], [5, 4]), ValueError, r"boundaries must grow, got \[5, 4\]"),
    (lambda: Join(1.0, []), TypeError, "schedules must be a list or a tuple, got 1.0"),  # type: ignore[arg-type]
    (
        lambda: Join([lambda step: 1.0], []),
        TypeError,
        r"schedules\[0\] must be a schedule of fastadam.schedules or a number",
    ),
    (lambda: Warmup("x", 3), TypeError, "schedule must be a real number, got 'x'"),  # type: ignore[arg-type]
    (lambda: Warmup(1.0, -1), ValueError, "steps must be at least 0, got -1"),
    (lambda: schedules.from_dict([]), TypeError, r"the definition of a schedule must be a mapping, got \[\]"),  # type: ignore[arg-type]
    (lambda: schedules.from_dict({"type": "Sine"}), ValueError, "there is no schedule 'Sine'; there are .*Cosine"),
    (lambda: schedules.from_dict({"type": ["Sine"]}), ValueError, "there is no schedule"),
    (
        lambda: schedules.from_dict({"type": "Constant"}),
        ValueError,
        r"the definition of Constant must have value; it has \[\]",
    ),
    (
        lambda: schedules.from_dict({"type": "Constant", "value": 1, "x": 2}),
        ValueError,
        r"it has \['value', 'x'\]",
    ),
    (lambda: schedules.from_dict({"type": "Constant", "value": -1}), ValueError, "value must be at least 0"),
    (
        lambda: schedules.from_dict({"type": "Warmup", "schedule": {}, "steps": 1, "start": 0}),
        ValueError,
        "there is no schedule",
    ),
]


@pytest.mark.parametrize(("make", "error", "message"), BAD, ids=[message for _, _, message in BAD])
def test_bad_arguments_are_refused(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("name", KNOWN)
def test_a_step_below_1_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="step must be at least 1, got 0; steps are counted from 1"):
        KNOWN[name][0](0)


def test_a_schedule_nested_without_end_is_not_written_down(tmp_path: Path) -> None:
    schedule: Schedule = Constant(1.0)
    for _ in range(3000):
        schedule = Warmup(schedule, 1)
    with pytest.raises(ValueError, match="nested too deeply"):
        schedule.to_dict()
    optimizer = fastadam.Adam(np.ones(2), lr=schedule)
    pytest.importorskip("safetensors")
    with pytest.raises(ValueError, match="nested too deeply"):
        fastadam.save(tmp_path / "run", optimizer)
    assert list(tmp_path.iterdir()) == []


def test_a_definition_nested_without_end_is_refused() -> None:
    definition: dict[str, Any] = {"type": "Constant", "value": 1.0}
    for _ in range(100_000):
        definition = {"type": "Warmup", "schedule": definition, "steps": 1, "start": 0.0}
    with pytest.raises(ValueError, match="nested too deeply"):
        schedules.from_dict(definition)
    while isinstance(definition.get("schedule"), dict):  # taken apart here: freeing it would recurse, too
        definition = definition.pop("schedule")


def test_a_class_of_ones_own_has_no_definition() -> None:
    class Mine(Constant):
        __slots__ = ()

    class Cosine(Constant):
        __slots__ = ()

    for schedule in (Mine(1.0), Cosine(1.0), Warmup(Mine(1.0), 3)):
        with pytest.raises(TypeError, match=r"has no definition: its class is none of .*Constant"):
            schedule.to_dict()


def test_a_rate_that_overflows_is_infinite_and_refused_by_the_optimizer() -> None:
    schedule = Exponential(1.0, 1e300)
    assert schedule(3) == math.inf
    assert Exponential(0.0, 1e300)(3) == 0.0
    assert Exponential(1.0, 0.5)(10**400) == Exponential(1.0, 0.5, end=0.0)(10**400) == 0.0
    optimizer = fastadam.Adam(np.ones(2), lr=schedule)
    optimizer.step(np.ones(2))
    optimizer.step(np.ones(2))
    with pytest.raises(ValueError, match=r"lr\(3\) must be finite"):
        optimizer.step(np.ones(2))


def test_an_optimizer_steps_with_it(backend: str) -> None:
    schedule = Warmup(Cosine(0.5, 5), 3)
    x, expected = np.zeros(3), np.zeros(3)
    optimizer = fastadam.Adam(x, lr=schedule, backend=backend)
    by_hand = fastadam.Adam(expected, backend=backend)
    for step in range(1, 12):
        optimizer.step(np.full(3, step / 7))
        by_hand.param_groups[0]["lr"] = schedule(step)
        by_hand.step(np.full(3, step / 7))
        assert x.tobytes() == expected.tobytes()


def test_each_parameter_has_its_own_count() -> None:
    seen: list[int] = []

    class Noting(Constant):
        __slots__ = ()

        def __call__(self, step: int) -> float:
            seen.append(step)
            return super().__call__(step)

    optimizer = fastadam.Adam([np.ones(1), np.ones(1)], lr=Noting(0.1))
    optimizer.step([np.ones(1), None])
    optimizer.step([np.ones(1), np.ones(1)])
    assert set(seen) == {1, 2}
