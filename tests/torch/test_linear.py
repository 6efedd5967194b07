"""Twice as many parameters take twice the work: nothing compares each with all others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastadam.torch  # noqa: E402
from tests.support.counting import assert_linear  # noqa: E402


def trained(n: int, **options: Any) -> Any:
    params = [torch.nn.Parameter(torch.ones(1)) for _ in range(n)]
    optimizer = fastadam.torch.Adam([(f"layers.{i}.w", param) for i, param in enumerate(params)], **options)
    for param in params:
        param.grad = torch.ones(1)
    optimizer.step()
    return optimizer


def averaged(n: int) -> Any:
    return trained(n, ema_decay=0.9)


def params_of(optimizer: Any) -> list[Any]:
    return list(optimizer.param_groups[0]["params"])


WORK: dict[str, tuple[Callable[[int], Any], Callable[[Any], object]]] = {
    "state.items()": (trained, lambda optimizer: list(optimizer.state.items())),
    "state by parameter": (trained, lambda optimizer: [optimizer.state[each] for each in params_of(optimizer)]),
    "ema.items()": (averaged, lambda optimizer: list(optimizer.ema.items())),
    "ema by parameter": (averaged, lambda optimizer: [optimizer.ema[each] for each in params_of(optimizer)]),
    "state_dict": (averaged, lambda optimizer: optimizer.state_dict()),
    "load_state_dict": (averaged, lambda optimizer: optimizer.load_state_dict(optimizer.state_dict())),
    "a step": (trained, lambda optimizer: optimizer.step()),
    "a step with other gradients": (
        trained,
        lambda optimizer: ([setattr(each, "grad", None) for each in params_of(optimizer)[::2]], optimizer.step()),
    ),
}


@pytest.mark.parametrize("name", WORK)
def test_work_is_linear(name: str) -> None:
    make, use = WORK[name]

    def work(n: int) -> Callable[[], object]:
        optimizer = make(n)
        return lambda: use(optimizer)

    assert_linear(work)


def test_averages_are_those_of_the_parameters_that_there_are() -> None:
    """The view remembers where each parameter was; groups, and the lists in them, can be edited meanwhile."""
    optimizer = averaged(6)
    view, params = optimizer.ema, params_of(optimizer)
    assert [view[each] is not None for each in params] == [True] * 6
    listed = optimizer.param_groups[0]["params"]
    listed.reverse()
    assert all(torch.equal(view[each], optimizer.ema[each]) for each in params)
    gone = listed.pop(2)
    optimizer.state.pop(gone)
    for averages in (view, optimizer.ema):
        with pytest.raises(KeyError):
            averages[gone]
        assert list(map(id, averages)) == list(map(id, listed))
    new = torch.nn.Parameter(torch.full((1,), 7.0))
    listed[0] = new
    assert view[new].item() == 7.0
    with pytest.raises(KeyError):
        view[torch.ones(1)]
