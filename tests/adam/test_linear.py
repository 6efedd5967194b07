"""Twice as many parameters take twice the work: nothing compares each with all others."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastadam
from tests.support.counting import Name, assert_linear

Work = Callable[[int], Callable[[], object]]


def arrays(n: int) -> dict[str, Any]:
    return {Name(f"layers.{i}.w"): np.ones(1) for i in range(n)}


def trained(n: int, **options: Any) -> fastadam.Adam:
    optimizer = fastadam.Adam(arrays(n), **options, backend="numpy")
    optimizer.step([np.ones(1)] * n)
    return optimizer


def nested(n: int) -> dict[str, Any]:
    return {"layers": [{"w": np.ones(1), "b": np.ones(1)} for _ in range(n)]}


def of(make: Callable[[int], Any], use: Callable[[Any], object]) -> Work:
    """Return work that uses what was made before, uncounted."""

    def work(n: int) -> Callable[[], object]:
        made = make(n)
        return lambda: use(made)

    return work


def load_in_another_order(n: int) -> Callable[[], object]:
    saved = trained(n).state_dict()
    mixed = dict(reversed(arrays(n).items()))
    optimizer = fastadam.Adam(mixed, backend="numpy")
    return lambda: optimizer.load_state_dict(saved)


def with_options_by_name(form: str) -> Work:
    def make(params: dict[str, Any]) -> fastadam.Adam:
        values = {form.format(i): 0.1 for i in range(len(params))}
        return fastadam.Adam([{"params": params, "lr": values}], backend="numpy")

    return of(arrays, make)


WORK: dict[str, Work] = {
    "constructor": of(arrays, fastadam.Adam),
    "constructor, nested": of(nested, fastadam.Adam),
    "constructor, a group for each": of(
        arrays, lambda params: fastadam.Adam([{"params": {name: each}} for name, each in params.items()])
    ),
    "options by name": with_options_by_name("layers.{}.w"),
    "options by container": with_options_by_name("layers.{}"),
    "options by pattern": with_options_by_name("layers.{}.[wb]"),
    "state.items()": of(trained, lambda optimizer: list(optimizer.state.items())),
    "state by name": of(
        trained, lambda optimizer: [optimizer.state[name] for name in arrays(len(optimizer.state))]
    ),
    "state by NumPy's integers": of(
        trained, lambda optimizer: [optimizer.state[i] for i in np.arange(len(optimizer.state))]
    ),
    "state by array": of(
        trained, lambda optimizer: [optimizer.state[each] for each in optimizer.param_groups[0]["params"]]
    ),
    "ema.items()": of(lambda n: trained(n, ema_decay=0.9), lambda optimizer: list(optimizer.ema.items())),
    "state_dict": of(trained, lambda optimizer: optimizer.state_dict()),
    "load_state_dict": of(trained, lambda optimizer: optimizer.load_state_dict(optimizer.state_dict())),
    "load_state_dict, in another order": load_in_another_order,
    "deepcopy": of(trained, copy.deepcopy),
    "copy": of(trained, copy.copy),
    "pickle": of(trained, lambda optimizer: pickle.loads(pickle.dumps(optimizer))),
    "repr": of(trained, repr),
    "pack": of(arrays, fastadam.pack),
    "pack, nested": of(nested, fastadam.pack),
    "pack, and its views": of(lambda n: fastadam.pack(arrays(n)), lambda flat: flat.params.copy()),
    "a step with a mapping": of(trained, lambda optimizer: optimizer.step(arrays(len(optimizer.state)))),
}


@pytest.mark.parametrize("name", WORK)
def test_work_is_linear(name: str) -> None:
    assert_linear(WORK[name])


def test_checkpoints_are_linear(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    path = tmp_path / "run"

    def load(n: int) -> Callable[[], object]:
        optimizer = trained(n)
        fastadam.save(path, optimizer)
        return lambda: fastadam.load(path, optimizer)

    assert_linear(of(trained, lambda optimizer: fastadam.save(path, optimizer)))
    assert_linear(load)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_memory_is_refused_if_any_group_has_it(ema_decay: float | None) -> None:
    """Whichever it joined with: what is known of the others is kept, and the new ones are added."""
    whole = np.ones(60)
    optimizer = fastadam.Adam(whole[20:22], ema_decay=ema_decay)
    free = [2, 40, 10, 50, 30]
    for start in free:
        optimizer.add_param_group({"params": [whole[start : start + 4], np.ones(2)]})
        for taken in (20, *free[: free.index(start) + 1]):
            for shift in (-1, 1):
                with pytest.raises(ValueError, match="share memory"):
                    optimizer.add_param_group({"params": whole[taken + shift :][:2]})
    optimizer.step([np.ones(2)] + [np.ones(4), np.ones(2)] * len(free))
    with pytest.raises(ValueError, match="share memory"):
        optimizer.add_param_group({"params": optimizer.state[0]["exp_avg"]})
    if ema_decay is not None:
        with pytest.raises(ValueError, match="share memory"):
            optimizer.add_param_group({"params": optimizer.ema[3]})
    optimizer.add_param_group({"params": whole[45:50]})


def test_state_is_found_by_all_numbers_that_equal_a_position() -> None:
    optimizer = trained(3)
    for key in (1, 1.0, np.int8(1), np.float32(1), True, np.bool_(True)):
        assert optimizer.state[key]["step"] == 1
    for key in (1.5, -1, 3, float("nan"), float("inf"), None, (), "1", b"1", 1j, np.int64(-1), 2**70):
        assert key not in optimizer.state
