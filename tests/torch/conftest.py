"""What the tests of fastadam.torch share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")

from torch.optim.optimizer import (  # noqa: E402
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from fastadam.torch import attempts, native_attempt, python_attempt  # noqa: E402


@pytest.fixture(params=["in one call", "in Python", "with care"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which way steps go, after the first one. For "with care" the test has to see to it, by `take_care`."""
    if request.param == "in Python":
        monkeypatch.setattr(attempts, "binder", lambda: python_attempt.bind)
    elif request.param == "in one call" and not native_attempt.tensor_reader():
        pytest.skip("native code cannot read tensors here")
    return str(request.param)


# Hooks.


@pytest.fixture
def global_hooks() -> Iterator[list[str]]:
    calls: list[str] = []
    handles = [
        register_optimizer_step_pre_hook(lambda *_: calls.append("global pre")),
        register_optimizer_step_post_hook(lambda *_: calls.append("global post")),
    ]
    yield calls
    for handle in handles:
        handle.remove()
