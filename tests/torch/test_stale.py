"""Whatever is changed behind the back of fastadam.torch between two steps, the next one goes as torch's."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

from fastadam.torch import attempts, python_attempt  # noqa: E402
from tests.support.torch_cases import (  # noqa: E402
    FEW,
    SETTINGS,
    Twins,
    assert_same_bits,
    canaries,
    give_grads,
    options_for,
    params,
)
from tests.torch.changes import CHANGES, SHAPES  # noqa: E402

AMSGRAD_STATE = {"all", "amsgrad"}


@pytest.mark.parametrize("setting", FEW)
@pytest.mark.parametrize("what", CHANGES)
def test_steps_after(what: str, setting: str) -> None:
    twins = Twins(lambda: params(*SHAPES), **SETTINGS[setting]).steps(3)
    twins.check()
    for _ in range(3):
        old = [[param.data for param in side.params] for side in (twins.ours, twins.theirs)]
        sizes = [tensor.nbytes for tensor in old[0]]
        twins.each(CHANGES[what])
        for side, tensors in zip((twins.ours, twins.theirs), old, strict=True):
            side.watched.update({f"what was parameter {i}": x for i, x in enumerate(tensors) if not x.is_neg()})
        del old
        tweeting = list(canaries(sizes))
        twins.steps(1).check()
        twins.steps(2, lambda step, i: (step + i) % 4 == 0).check()
        assert all(bool((canary == 7).all()) for canary in tweeting), "freed memory was written to"


@pytest.fixture(params=["native", "python"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way in which a step finds out whether something has changed."""
    if request.param == "python":
        monkeypatch.setattr(attempts, "binder", lambda: python_attempt.bind)


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("what", CHANGES)
def test_what_was_replaced_is_left_alone(what: str) -> None:
    """As above without holding on to what was replaced, so that its memory is free for others."""
    twins = Twins(lambda: params(*SHAPES), amsgrad=True).steps(3)
    sizes = sorted({tensor.nbytes for state in twins.ours.state.values() for tensor in state.values()})
    twins.each(CHANGES[what])
    tweeting = list(canaries(sizes))
    twins.steps(3)
    assert all(bool((canary == 7).all()) for canary in tweeting), "freed memory was written to"
    del tweeting
    twins.steps(1).check()


@pytest.mark.parametrize("first", list(CHANGES)[::4])
@pytest.mark.parametrize("second", list(CHANGES)[2::4])
def test_two_changes_at_once(first: str, second: str) -> None:
    twins = Twins(lambda: params(*SHAPES), amsgrad=True, weight_decay=0.1).steps(2)
    try:
        for what in (first, second):
            twins.each(CHANGES[what])
        probe = copy.deepcopy(twins.theirs.optimizer)  # some of the pairs leave a state that torch cannot use
        give_grads(probe, 1)
        probe.step()
    except Exception as error:
        pytest.skip(f"torch: {error}")
    twins.steps(2).check()


def test_gradients_keep_their_values_in_all_changes() -> None:
    twins = Twins(lambda: params(*SHAPES), **options_for("Adam", "all")).steps(2)
    for what in ("copied", "state cleared", "parameters of one vector", "group added"):
        twins.each(CHANGES[what])
        twins.steps(2).check()  # steps compares the gradients
    assert_same_bits(twins.ours.params[0].grad, twins.theirs.params[0].grad)
