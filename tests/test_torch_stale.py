"""Whatever is changed behind the back of fastadam.torch between two steps, the next one goes as torch's."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fastadam.torch import attempts, python_attempt  # noqa: E402
from tests.torch_cases import (  # noqa: E402
    FEW,
    SETTINGS,
    Parameter,
    Side,
    Twins,
    assert_close,
    assert_same_bits,
    assert_same_snapshot,
    canaries,
    draw,
    error_of,
    give_grads,
    grad_for,
    members,
    options_for,
    params,
    snapshot,
)

SHAPES = [(7,), (3, 4), (4, 3), (), (3, 4), (2, 3, 4, 5), (0,), (300,)]
CHANGES: dict[str, Callable[[Side], object]] = {}


def change(f: Callable[[Side], object]) -> Callable[[Side], object]:
    """List a function that changes something on one side; it is called several times."""
    CHANGES[f.__name__.replace("_", " ").strip()] = f
    return f


def like(tensor: Any, seed: int = 5) -> Any:
    return draw(tensor.shape, tensor.dtype, seed)


# Where parameters lie.


@change
def data_of_a_parameter_assigned(side: Side) -> None:
    for param in side.params:
        param.data = like(param)


@change
def data_of_one_parameter_assigned(side: Side) -> None:
    side.params[1].data = like(side.params[1])


@change
def data_is_a_view_of_something_larger(side: Side) -> None:
    base = draw((40,), seed=3)
    side.watched["around"] = base
    side.params[0].data = base[5:12]
    side.params[1].data = base[20:32].view(3, 4)


@change
def data_has_other_strides(side: Side) -> None:
    side.params[1].data = like(side.params[2]).t()
    side.params[4].data = draw((3, 8), seed=3)[:, ::2]


@change
def data_of_two_parameters_exchanged(side: Side) -> None:
    a, b = side.params[1], side.params[4]
    a.data, b.data = b.data, a.data


@change
def data_with_a_negative_bit(side: Side) -> None:
    side.watched["complex"] = draw((3, 4), torch.complex64, 3)
    side.params[1].data = side.watched["complex"].conj().imag


@change
def data_negated_where_it_lies(side: Side) -> None:
    side.params[1].data = torch._neg_view(side.params[1].data)


@change
def moment_negated_where_it_lies(side: Side) -> None:
    moment = side.state[side.params[1]]["exp_avg"]
    moment.data = torch._neg_view(moment.data)


@change
def data_set(side: Side) -> None:
    side.params[0].data.set_(like(side.params[0]))


@change
def parameter_set(side: Side) -> None:
    with torch.no_grad():
        side.params[0].set_(like(side.params[0]))


@change
def parameter_set_to_a_part_of_a_storage(side: Side) -> None:
    base = side.watched["around"] = draw((40,), side.params[1].dtype, 3)
    with torch.no_grad():
        side.params[1].set_(base.untyped_storage(), 7, (3, 4), (8, 2))


@change
def parameter_has_other_strides_in_place(side: Side) -> None:
    with torch.no_grad():
        side.params[4].t_()
        side.params[4].as_strided_((3, 4), (1, 3))


@change
def parameter_edited_in_place(side: Side) -> None:
    with torch.no_grad():
        side.params[0].mul_(2)
        side.params[1].copy_(like(side.params[1]))
        torch.nn.init.ones_(side.params[2])
    side.params[4].data.zero_()


@change
def storage_grown(side: Side) -> None:
    for param in side.params:
        param.untyped_storage().resize_(param.untyped_storage().nbytes() * 50 + 4096)


@change
def storage_freed_and_allocated_again(side: Side) -> None:
    """As sharded training does between steps."""
    for param in side.params:
        values, size = param.detach().clone(), param.untyped_storage().nbytes()
        param.untyped_storage().resize_(0)
        side.watched.update({f"{i} in freed memory": x for i, x in enumerate(canaries([size]))})
        param.untyped_storage().resize_(size)
        param.data.copy_(values)


@change
def parameters_shared(side: Side) -> None:
    for param in side.params:
        param.share_memory_()


@change
def states_shared(side: Side) -> None:
    for state in side.state.values():
        for value in state.values():
            value.share_memory_()


@change
def parameters_of_one_vector(side: Side) -> None:
    vector = torch.nn.utils.parameters_to_vector(side.params).detach() * 1.5
    torch.nn.utils.vector_to_parameters(vector, side.params)
    side.watched["vector"] = vector


@change
def tensors_swapped(side: Side) -> None:
    other = Parameter(like(side.params[1]))
    side.watched["other"] = other
    torch.utils.swap_tensors(side.params[1], other)


@change
def two_parameters_swapped(side: Side) -> None:
    torch.utils.swap_tensors(side.params[1], side.params[4])


@change
def state_swapped(side: Side) -> None:
    torch.utils.swap_tensors(*(side.state[side.params[i]]["exp_avg"] for i in (1, 4)))


@change
def requires_no_gradient(side: Side) -> None:
    side.params[0].requires_grad_(False)


@change
def class_changed(side: Side) -> None:
    class Mine(Parameter):
        pass

    side.params[0].__class__ = Mine


@change
def attributes_added(side: Side) -> None:
    side.params[0].tag = "mine"


# What is remembered of them.


@change
def moments_edited_in_place(side: Side) -> None:
    for state in side.state.values():
        state["exp_avg"].mul_(-2)
        state["exp_avg_sq"].add_(0.1)


@change
def moments_replaced(side: Side) -> None:
    for state in side.state.values():
        state["exp_avg"] = like(state["exp_avg"])
        state["exp_avg_sq"] = like(state["exp_avg_sq"]).square()


@change
def one_moment_replaced(side: Side) -> None:
    side.state[side.params[1]]["exp_avg_sq"] = torch.ones(3, 4)


@change
def data_of_moments_assigned(side: Side) -> None:
    for state in side.state.values():
        state["exp_avg"].data = like(state["exp_avg"])


@change
def moments_set(side: Side) -> None:
    for state in side.state.values():
        state["exp_avg_sq"].set_(like(state["exp_avg_sq"]).square())


@change
def moments_with_other_strides(side: Side) -> None:
    side.state[side.params[1]]["exp_avg"] = draw((4, 3), seed=3).t()
    side.state[side.params[4]]["exp_avg_sq"] = draw((3, 8), seed=3).square()[:, 1::2]


@change
def moments_of_two_parameters_exchanged(side: Side) -> None:
    a, b = (side.state[side.params[i]] for i in (1, 4))
    a["exp_avg"], b["exp_avg"] = b["exp_avg"], a["exp_avg"]


@change
def states_of_two_parameters_exchanged(side: Side) -> None:
    a, b = side.params[1], side.params[4]
    side.state[a], side.state[b] = side.state[b], side.state[a]


@change
def moments_grown(side: Side) -> None:
    for state in side.state.values():
        storage = state["exp_avg"].untyped_storage()
        storage.resize_(storage.nbytes() * 50 + 4096)


@change
def moments_that_require_a_gradient(side: Side) -> None:
    side.state[side.params[1]]["exp_avg"].requires_grad_().detach_()


@change
def maximum_replaced(side: Side) -> None:
    for state in side.state.values():
        if "max_exp_avg_sq" in state:
            state["max_exp_avg_sq"] = torch.full_like(state["max_exp_avg_sq"], 2)


@change
def state_cleared(side: Side) -> None:
    side.state.clear()


@change
def state_is_a_new_dict(side: Side) -> None:
    side.optimizer.state = defaultdict(dict)


@change
def state_is_a_copy(side: Side) -> None:
    side.optimizer.state = defaultdict(
        dict, {k: {**v, "exp_avg": v["exp_avg"] * 2} for k, v in side.state.items()}
    )


@change
def state_of_one_deleted(side: Side) -> None:
    del side.state[side.params[1]]


@change
def state_of_one_emptied(side: Side) -> None:
    side.state[side.params[1]].clear()


@change
def state_of_one_is_a_new_dict(side: Side) -> None:
    side.state[side.params[1]] = {}


@change
def state_of_one_is_a_copy(side: Side) -> None:
    param = side.params[1]
    side.state[param] = {key: value.clone() + 1 for key, value in side.state[param].items()}


@change
def state_has_more_keys(side: Side) -> None:
    side.state[side.params[1]]["mine"] = 5
    side.state["all"] = {"mine": 6}


@change
def state_dict_of_one_is_another_mapping(side: Side) -> None:
    side.state[side.params[1]] = defaultdict(list, side.state[side.params[1]])


@change
def steps_filled(side: Side) -> None:
    for i, param in enumerate(side.params):
        side.state[param]["step"].fill_(10 * i)


@change
def step_of_one_filled(side: Side) -> None:
    side.state[side.params[1]]["step"].fill_(100)


@change
def step_increased_in_place(side: Side) -> None:
    side.state[side.params[0]]["step"] += 5


@change
def steps_between_whole_numbers(side: Side) -> None:
    side.state[side.params[0]]["step"].fill_(2.5)


@change
def steps_zeroed(side: Side) -> None:
    for state in side.state.values():
        state["step"].zero_()


@change
def steps_replaced(side: Side) -> None:
    for i, param in enumerate(side.params):
        side.state[param]["step"] = torch.tensor(20.0 + i)


@change
def data_of_a_step_assigned(side: Side) -> None:
    side.state[side.params[1]]["step"].data = torch.tensor(30.0)


@change
def steps_of_other_dtypes(side: Side) -> None:
    for param, dtype in zip(side.params, (torch.int64, torch.float64, torch.int32), strict=False):
        side.state[param]["step"] = torch.tensor(20, dtype=dtype)


@change
def step_of_one_element(side: Side) -> None:
    side.state[side.params[1]]["step"] = torch.tensor([20.0])


@change
def step_that_is_a_view(side: Side) -> None:
    side.watched["steps"] = torch.tensor([10.0, 20.0, 30.0])
    side.state[side.params[1]]["step"] = side.watched["steps"][1]


@change
def step_exchanged_for_another_parameters(side: Side) -> None:
    a, b = (side.state[side.params[i]] for i in (0, 1))
    a["step"].fill_(40)
    a["step"], b["step"] = b["step"], a["step"]


# Groups.


@change
def parameter_of_a_group_exchanged(side: Side) -> None:
    side.group["params"][1] = Parameter(like(side.params[1]))


@change
def parameter_of_a_group_exchanged_for_one_of_another_shape(side: Side) -> None:
    side.group["params"][1] = Parameter(draw((5,), torch.float64))


@change
def parameter_deleted(side: Side) -> None:
    side.watched[f"deleted from {len(side.params)}"] = side.params[1]
    del side.group["params"][1]


@change
def first_parameter_deleted_with_its_state(side: Side) -> None:
    side.state.pop(side.group["params"].pop(0))


@change
def parameter_appended(side: Side) -> None:
    side.group["params"].append(Parameter(draw((3,))))


@change
def parameter_appended_and_another_deleted(side: Side) -> None:
    side.group["params"].append(side.group["params"].pop(1))


@change
def parameters_in_a_new_list(side: Side) -> None:
    side.group["params"] = side.group["params"][1:]


@change
def parameters_in_a_tuple(side: Side) -> None:
    side.group["params"] = tuple(side.group["params"])


@change
def parameters_reversed(side: Side) -> None:
    side.group["params"].reverse()


@change
def options_edited(side: Side) -> None:
    side.group.update(lr=0.05, betas=(0.7, 0.8), eps=1e-5)


@change
def decay_edited(side: Side) -> None:
    side.group.update(weight_decay=0.2, decoupled_weight_decay=not side.group["decoupled_weight_decay"])


@change
def maximize_edited(side: Side) -> None:
    side.group["maximize"] = not side.group["maximize"]


@change
def amsgrad_switched_off(side: Side) -> None:
    side.group["amsgrad"] = False


@change
def lr_of_other_types(side: Side) -> None:
    side.group["lr"] = torch.tensor(0.03, dtype=torch.float64)


@change
def lr_is_an_int(side: Side) -> None:
    side.group["lr"] = 0


@change
def lr_is_a_numpy_number(side: Side) -> None:
    side.group["lr"] = pytest.importorskip("numpy").float64(0.07)


@change
def foreach_and_fused_edited(side: Side) -> None:
    side.group.update(foreach=not side.group["foreach"], fused=False)


@change
def unknown_options_added(side: Side) -> None:
    side.group.update(initial_lr=0.1, mine="mine")


@change
def defaults_edited(side: Side) -> None:
    side.optimizer.defaults["lr"] = 5.0


@change
def group_dict_replaced(side: Side) -> None:
    side.optimizer.param_groups[0] = {**side.group, "lr": 0.06}


@change
def list_of_groups_replaced(side: Side) -> None:
    side.optimizer.param_groups = [{**group, "lr": 0.07} for group in side.optimizer.param_groups]


@change
def group_split(side: Side) -> None:
    first, rest = side.group["params"][:1], side.group["params"][1:]
    side.optimizer.param_groups.insert(0, {**side.group, "params": first, "lr": 0.08})
    side.optimizer.param_groups[1]["params"] = rest


@change
def groups_exchanged(side: Side) -> None:
    if len(side.optimizer.param_groups) == 1:
        side.optimizer.add_param_group({"params": params((5,)), "lr": 0.5})
    side.optimizer.param_groups.reverse()


@change
def group_added(side: Side) -> None:
    side.optimizer.add_param_group({"params": params((5,), (2, 2), seed=7), "lr": 0.09, "amsgrad": True})


@change
def group_emptied(side: Side) -> None:
    side.optimizer.param_groups[-1]["params"].clear()
    side.optimizer.add_param_group({"params": params((5,), seed=7)})


@change
def group_deleted(side: Side) -> None:
    if len(side.optimizer.param_groups) == 1:
        side.optimizer.add_param_group({"params": params((5,)), "lr": 0.5})
    else:
        del side.optimizer.param_groups[0]


# The optimizer as a whole.


@change
def state_dict_loaded(side: Side) -> None:
    saved = copy.deepcopy(side.optimizer.state_dict())
    for state in saved["state"].values():
        state["exp_avg"].mul_(0.5)
    saved["param_groups"][0]["lr"] = 0.04
    side.optimizer.load_state_dict(saved)


@change
def state_dict_loaded_that_holds_the_same_tensors(side: Side) -> None:
    side.optimizer.load_state_dict(side.optimizer.state_dict())


@change
def state_dict_loaded_without_some_states(side: Side) -> None:
    saved = copy.deepcopy(side.optimizer.state_dict())
    saved["state"].pop(1, None)
    side.optimizer.load_state_dict(saved)


@change
def state_dict_edited(side: Side) -> None:
    """Edit what it holds, which are the live tensors."""
    saved = side.optimizer.state_dict()
    saved["state"][1]["exp_avg"].fill_(0.25)


@change
def pickled(side: Side) -> None:
    side.optimizer = pickle.loads(pickle.dumps(side.optimizer))


@change
def copied(side: Side) -> None:
    kept, side.optimizer = side.optimizer, copy.deepcopy(side.optimizer)
    side.watched.update({f"parameter {i} of the original": param for i, param in enumerate(members(kept))})


@change
def copied_and_the_copy_stepped(side: Side) -> None:
    other = copy.deepcopy(side.optimizer)
    give_grads(other, 50)
    other.step()
    other.step()
    side.watched.update({f"parameter {i} of the copy": param for i, param in enumerate(members(other))})


@change
def shallowly_copied(side: Side) -> None:
    side.optimizer = copy.copy(side.optimizer)


@change
def state_taken_out_and_put_in(side: Side) -> None:
    side.optimizer.__setstate__(side.optimizer.__getstate__())


@change
def another_optimizer_stepped_them_meanwhile(side: Side) -> None:
    other = type(side.optimizer)(side.params, lr=0.5)
    give_grads(other, 60)
    other.step()


@change
def nothing(side: Side) -> None:
    pass


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


# Changes that torch does not survive, or in which fastadam may do better: an error, and nothing written, or the
# same result as by another way. Each returns what to do instead for the second side, or None where there must be
# an error.
def refused_or_same(
    spoil: Callable[[Side], object], alternative: Callable[[Side], object] | None, setting: str = "default"
) -> None:
    twins = Twins(lambda: params(*SHAPES), **SETTINGS[setting]).steps(3)
    ours, theirs = twins.ours, twins.theirs
    spoil(ours)
    give_missing_grads(ours)
    before = snapshot(ours.optimizer)
    try:
        ours.optimizer.step()
    except (RuntimeError, ValueError, TypeError, KeyError):
        assert_same_snapshot(snapshot(ours.optimizer), before)
        return
    assert alternative is not None, "there was no error"
    alternative(theirs)
    give_missing_grads(theirs)
    theirs.optimizer.step()
    for i, (a, b) in enumerate(zip(ours.params, theirs.params, strict=True)):
        assert_close(a, b, f"parameter {i}")
        assert_close(ours.state[a]["exp_avg"], theirs.state[b]["exp_avg"], f"parameter {i}, exp_avg")
        assert float(ours.state[a]["step"]) == float(theirs.state[b]["step"])


def give_missing_grads(side: Side) -> None:
    for i, param in enumerate(side.params):
        if param.grad is None or param.grad.shape != param.shape or param.grad.dtype != param.dtype:
            param.grad = None
            param.grad = grad_for(param, i)


def with_maximum(side: Side) -> None:
    side.group["amsgrad"] = True
    for state in side.state.values():
        state["max_exp_avg_sq"] = torch.zeros_like(state["exp_avg_sq"])


def step_as(value: Any) -> Callable[[Side], object]:
    def set_step(side: Side) -> None:
        side.state[side.params[1]]["step"] = value

    return set_step


def shrink_or_grow(side: Side, shape: tuple[int, ...], i: int = 1) -> None:
    side.params[i].data = draw(shape)
    side.params[i].grad = None


def data_of_a_gradient(side: Side, tensor: Any) -> None:
    side.params[1].grad.data = tensor


SPOILED: dict[str, tuple[Callable[[Side], object], Callable[[Side], object] | None]] = {
    "amsgrad switched on": (lambda side: side.group.update(amsgrad=True), with_maximum),
    "step is an int": (step_as(9), step_as(torch.tensor(9.0))),
    "step is a float": (step_as(9.0), step_as(torch.tensor(9.0))),
    "step is a tensor of two": (step_as(torch.ones(2)), None),
    "step is None": (step_as(None), None),
    "step is missing": (lambda side: side.state[side.params[1]].pop("step"), None),
    "a moment is missing": (lambda side: side.state[side.params[1]].pop("exp_avg"), None),
    "another moment is missing": (lambda side: side.state[side.params[1]].pop("exp_avg_sq"), None),
    "a moment is None": (lambda side: side.state[side.params[1]].update(exp_avg=None), None),
    "a moment is a number": (lambda side: side.state[side.params[1]].update(exp_avg=0.0), None),
    "a moment is too small": (lambda side: side.state[side.params[1]].update(exp_avg=torch.zeros(2, 4)), None),
    "a moment is too large": (lambda side: side.state[side.params[1]].update(exp_avg=torch.zeros(6, 4)), None),
    "a moment is transposed": (lambda side: side.state[side.params[1]].update(exp_avg_sq=torch.zeros(4, 3)), None),
    "a moment is float64": (
        lambda side: side.state[side.params[1]].update(exp_avg=torch.zeros(3, 4, dtype=torch.float64)),
        None,
    ),
    "a moment is int32": (
        lambda side: side.state[side.params[1]].update(exp_avg=torch.zeros(3, 4, dtype=torch.int32)),
        None,
    ),
    "a moment is sparse": (
        lambda side: side.state[side.params[1]].update(exp_avg=torch.zeros(3, 4).to_sparse()),
        None,
    ),
    "a moment is expanded": (
        lambda side: side.state[side.params[1]].update(exp_avg=torch.zeros(1).expand(3, 4)),
        None,
    ),
    "a moment overlaps itself": (
        lambda side: side.state[side.params[1]].update(exp_avg=torch.zeros(20).as_strided((3, 4), (1, 1))),
        None,
    ),
    "a parameter overlaps itself": (
        lambda side: setattr(side.params[1], "data", torch.zeros(20).as_strided((3, 4), (1, 1))),
        None,
    ),
    "a parameter is expanded": (lambda side: setattr(side.params[0], "data", torch.zeros(1).expand(7)), None),
    "a parameter grew": (lambda side: shrink_or_grow(side, (6, 4)), None),
    "a parameter shrank": (lambda side: shrink_or_grow(side, (2, 4)), None),
    "a parameter has another shape of the same size": (lambda side: shrink_or_grow(side, (2, 6)), None),
    "a parameter turned to float64": (
        lambda side: setattr(side.params[1], "data", side.params[1].data.double()),
        None,
    ),
    "a parameter turned to bfloat16": (
        lambda side: setattr(side.params[1], "data", side.params[1].data.bfloat16()),
        None,
    ),
    "a parameter turned to int32": (lambda side: setattr(side.params[6], "data", side.params[6].data.int()), None),
}


@pytest.mark.parametrize("what", SPOILED)
def test_refused_before_anything_is_written(what: str) -> None:
    if what == "a parameter turned to int32":
        pytest.skip("gradients of integers do not exist")
    refused_or_same(*SPOILED[what])


SPOILED_GRADS: dict[str, Callable[[Any], Any]] = {
    "too small": lambda param: torch.ones(2, 4),
    "too large": lambda param: torch.ones(6, 4),
    "transposed": lambda param: torch.ones(4, 3),
    "float64": lambda param: torch.ones(3, 4, dtype=torch.float64),
    "bfloat16": lambda param: torch.ones(3, 4, dtype=torch.bfloat16),
    "to be broadcast": lambda param: torch.ones(4),
}


@pytest.mark.parametrize("what", SPOILED_GRADS)
def test_a_gradient_that_does_not_fit_any_more(what: str) -> None:
    """Which torch's setter refuses; it gets there by its data, its dtype, or the parameter's data."""
    grad = SPOILED_GRADS[what](None)
    twins = Twins(lambda: params(*SHAPES)).steps(2)
    param = twins.ours.params[1]
    param.grad_dtype = None
    old = param.data
    param.data = torch.zeros(grad.shape)
    param.grad = grad
    param.data = old
    before = snapshot(twins.ours.optimizer)
    try:
        twins.ours.optimizer.step()
    except (RuntimeError, ValueError, TypeError):
        assert_same_snapshot(snapshot(twins.ours.optimizer), before)
    else:
        other = twins.theirs.params[1]
        other.grad = grad.to(other.dtype).expand(other.shape).clone()
        twins.theirs.optimizer.step()
        twins.check()


@pytest.mark.parametrize("what", list(SPOILED)[:12:3] + list(SPOILED)[-4:-1])
def test_a_refused_step_can_be_taken_again(what: str) -> None:
    twins = Twins(lambda: params(*SHAPES)).steps(3)
    ours = twins.ours
    kept = [param.data for param in ours.params], {k: dict(v) for k, v in ours.state.items()}
    options = dict(ours.group)
    SPOILED[what][0](ours)
    give_missing_grads(ours)
    try:
        ours.optimizer.step()
    except (RuntimeError, ValueError, TypeError, KeyError):
        for param, data in zip(ours.params, kept[0], strict=True):
            param.grad = None
            param.data = data
        for param, state in kept[1].items():
            ours.state[param] = state
        ours.group.update(options)
        twins.steps(3).check()


MANY = (2, 1, 3, 1, 2, 2, 2)


def strides_in_place(dims: int) -> Callable[[Any], object]:
    def restride(tensor: Any) -> None:
        shape = tensor.shape
        order = sorted(range(dims), key=lambda i: (shape[i], i))  # any order but the usual one
        strides, reach = [0] * dims, 1
        for i in order:
            strides[i], reach = reach, reach * shape[i]
        tensor.as_strided_(shape, strides)

    return restride


@pytest.mark.parametrize("what", ["parameter", "moment", "data", "gradient"])
@pytest.mark.parametrize("dims", range(2, 8))
def test_strides_that_change_in_place(dims: int, what: str) -> None:
    """The memory, the shape and the tensors stay; of many dimensions, torch keeps the strides elsewhere."""
    twins = Twins(lambda: params(MANY[-dims:], (3,)), amsgrad=True).steps(3)
    for side in (twins.ours, twins.theirs):
        first = side.params[0]
        with torch.no_grad():
            if what == "parameter":
                strides_in_place(dims)(first)
            elif what == "moment":
                strides_in_place(dims)(side.state[first]["exp_avg_sq"])
            elif what == "data":
                copied = first.data.clone()
                strides_in_place(dims)(copied)
                first.data = copied
            else:
                give_grads(side.optimizer, 50)
                strides_in_place(dims)(first.grad)
                side.optimizer.step()
    twins.check()
    twins.steps(3).check()


@pytest.mark.parametrize("dims", range(2, 8))
def test_shapes_that_change_in_place(dims: int) -> None:
    """To as many elements with other lengths: refused, as the moments keep theirs."""
    twins = Twins(lambda: [draw(MANY[-dims:]), draw((3,))]).steps(3)
    for side in (twins.ours, twins.theirs):
        first = side.params[0]
        first.resize_(tuple(reversed(first.shape)))
        first.grad = None
        give_grads(side.optimizer, 5)
        before = snapshot(side.optimizer)
        error = error_of(side.optimizer.step)
        if tuple(reversed(MANY[-dims:])) == MANY[-dims:]:
            assert error is None
        else:
            assert isinstance(error, RuntimeError)
            if side is twins.ours:
                assert_same_snapshot(snapshot(side.optimizer), before)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.norm = torch.nn.BatchNorm2d(4)
        self.linear = torch.nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        # Nothing lies in front of the norm that it would take out again: noise in place of a gradient.
        return self.linear(self.norm(self.conv(x).tanh()).sigmoid().mean((2, 3)))


def train(side: Side, seed: int, n: int = 3) -> None:
    """Take steps with gradients from backward."""
    for i in range(n):
        side.optimizer.zero_grad()
        first = next(side.model.parameters())
        x = draw((5, 3, 6, 6), seed=10 * seed + i).to(first.dtype)
        side.model(x).square().mean().backward()
        side.optimizer.step()


MODEL_CHANGES: dict[str, Callable[[Any], object]] = {
    "load_state_dict": lambda model: model.load_state_dict({k: v * 1 for k, v in model.state_dict().items()}),
    "load_state_dict with assign": lambda model: model.load_state_dict(
        {k: v.clone() for k, v in model.state_dict().items()}, assign=True
    ),
    "channels_last": lambda model: model.to(memory_format=torch.channels_last),
    "share_memory": lambda model: model.share_memory(),
    "to cpu": lambda model: model.cpu(),
    "to float": lambda model: model.to(torch.float32),
    "double and back": lambda model: model.double().float(),
    "bfloat16 and back": lambda model: model.bfloat16().float(),
    "requires_grad_(False)": lambda model: model.conv.requires_grad_(False),
    "a parameter replaced": lambda model: setattr(model.linear, "bias", Parameter(torch.ones(2))),
    "a parameter deleted": lambda model: model.linear.register_parameter("bias", None),
    "reset_parameters": lambda model: torch.nn.init.constant_(model.linear.weight, 0.5),
    "eval": lambda model: model.eval(),
    "weights tied": lambda model: setattr(model.conv, "bias", model.norm.bias),
    "data tied": lambda model: setattr(model.conv.bias, "data", model.norm.bias.data),
}


@pytest.mark.parametrize("setting", FEW)
@pytest.mark.parametrize("what", MODEL_CHANGES)
def test_steps_after_a_model_was_changed(what: str, setting: str) -> None:
    twins = Twins(Net, **SETTINGS[setting])
    for round_ in range(3):
        for side in (twins.ours, twins.theirs):
            train(side, round_)
        for a, b in zip(twins.ours.model.parameters(), twins.theirs.model.parameters(), strict=True):
            assert_close(a, b, "model", rtol=1e-4, atol=1e-5)
        twins.check(rtol=1e-4, atol=1e-5)
        twins.level()
        twins.each(lambda side: MODEL_CHANGES[what](side.model))


@pytest.mark.parametrize("overwrite", [False, True], ids=["data", "swap"])
def test_a_model_that_is_converted_by_swapping(overwrite: bool) -> None:
    """`swap_tensors` refuses tensors that something holds a weak reference to."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(overwrite)
    try:
        twins = Twins(Net)
        for round_ in range(2):
            for side in (twins.ours, twins.theirs):
                train(side, round_)
                side.optimizer.zero_grad()
                side.model.to(memory_format=torch.channels_last)
                side.model.load_state_dict({k: v * 1 for k, v in side.model.state_dict().items()})
            twins.check(rtol=1e-4, atol=1e-5)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


@pytest.mark.parametrize("setting", FEW)
def test_a_model_turned_to_double(setting: str) -> None:
    """Torch raises, as the moments stay as they were; after `load_state_dict` they are double too."""
    twins = Twins(Net, **SETTINGS[setting])
    for side in (twins.ours, twins.theirs):
        train(side, 0)
        side.model.double()
        with pytest.raises(RuntimeError, match=r"dtype|double|float64"):
            train(side, 1)
    twins = Twins(Net, **SETTINGS[setting])
    for side in (twins.ours, twins.theirs):
        train(side, 0)
        side.model.double()
        side.optimizer.load_state_dict(copy.deepcopy(side.optimizer.state_dict()))
        train(side, 1)
        assert all(param.dtype == torch.float64 for param in side.params)
    twins.check(rtol=1e-4, atol=1e-6)


def test_a_model_turned_to_double_before_the_first_step() -> None:
    twins = Twins(Net)
    for side in (twins.ours, twins.theirs):
        side.model.double()
        train(side, 0, 10)
    twins.check(rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_model_whose_parameters_take_shape_after_the_optimizer_was_made() -> None:
    def make() -> Any:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.LazyConv2d(4, 3), torch.nn.Flatten(), torch.nn.LazyLinear(2))

    twins = Twins(make)
    twins.each(lambda side: side.optimizer.step())
    for side in (twins.ours, twins.theirs):
        torch.manual_seed(1)
        side.model(torch.ones(2, 3, 6, 6))
        train(side, 0)
    twins.check(rtol=1e-4, atol=1e-6)


def test_a_list_of_betas_edited_in_place() -> None:
    twins = Twins(lambda: params(*SHAPES))
    for beta in (0.9, 0.2, 0.5):
        for side in (twins.ours, twins.theirs):
            if not isinstance(side.group["betas"], list):
                side.group["betas"] = [0.8, 0.99]
            side.group["betas"][0] = beta
        twins.steps(3).check()


def test_a_complex_parameter_conjugated_where_it_lies() -> None:
    """By nothing but a bit. Torch cannot step it; neither may its memory be taken for what it is not."""

    def make(conjugate: Callable[[Any], Any]) -> Any:
        side = Twins(lambda: params((5,), dtype=torch.complex64)).steps(2).ours
        side.params[0].data = conjugate(side.params[0].data)
        give_grads(side.optimizer, 3)
        return side

    lazily, eagerly = make(torch.conj), make(torch.conj_physical)
    eagerly.optimizer.step()
    before = lazily.params[0].detach().resolve_conj().clone()
    if error_of(lazily.optimizer.step) is None:
        assert_close(lazily.params[0], eagerly.params[0], "parameter")
    else:
        assert_same_bits(lazily.params[0], before)


def test_tensor_options_edited_in_place() -> None:
    lr = torch.tensor(0.01, dtype=torch.float64)
    betas = tuple(torch.tensor(x, dtype=torch.float64) for x in (0.9, 0.99))
    twins = Twins(lambda: params(*SHAPES), lr=lr, betas=betas).steps(3)
    for side in (twins.ours, twins.theirs):
        side.group["lr"].fill_(0.3)
    twins.steps(2).check()
    for side in (twins.ours, twins.theirs):
        side.group["betas"][0].fill_(0.2)
        side.group["betas"][1].mul_(0.5)
    twins.steps(2).check()
    for side in (twins.ours, twins.theirs):
        side.group["lr"].data = torch.tensor(0.7, dtype=torch.float64)
    twins.steps(2).check()


@pytest.mark.parametrize("setting", FEW)
@pytest.mark.parametrize("what", ["parameters", "one into the other", "moments", "steps", "parameter and moment"])
def test_memory_that_is_shared_within_an_optimizer(what: str, setting: str) -> None:
    """Torch takes one parameter after the other."""

    def make() -> list[Any]:
        base = draw((64,))
        if what == "parameters":
            return [Parameter(base[:20]), *params((3,)), Parameter(base[:20])]
        if what == "one into the other":
            return [Parameter(base[:20]), *params((3,)), Parameter(base[10:30])]
        return params((20,), (3,), (20,))

    twins = Twins(make, **SETTINGS[setting]).steps(1)
    for side in (twins.ours, twins.theirs):
        first, _, last = (side.state[param] for param in side.params)
        if what == "moments":
            last["exp_avg"] = first["exp_avg"]
            last["exp_avg_sq"] = first["exp_avg_sq"]
        elif what == "steps":
            last["step"] = first["step"]
        elif what == "parameter and moment":
            side.params[2].data = first["exp_avg"]
    twins.steps(5).check()


@pytest.mark.parametrize("setting", FEW)
@pytest.mark.parametrize("shift", [0, 5, -5])
def test_memory_that_is_shared_between_optimizers(shift: int, setting: str) -> None:
    def make() -> list[Any]:
        return [Parameter(draw((64,))[10:30])]

    first, second = (Twins(make, **SETTINGS[setting]) for _ in range(2))
    for a, b in ((first.ours, second.ours), (first.theirs, second.theirs)):
        b.params[0].data = a.params[0].data.as_strided((20,), (1,), 10 + shift)
    for _ in range(5):
        first.steps(1).check()
        second.steps(1).check()


def test_a_state_dict_is_taken_over_without_a_copy() -> None:
    """Torch's `load_state_dict` takes the tensors themselves where nothing has to be converted."""
    first, second = (Twins(lambda: params(*SHAPES), amsgrad=True) for _ in range(2))
    first.steps(2)
    for a, b in ((first.ours, second.ours), (first.theirs, second.theirs)):
        b.optimizer.load_state_dict(a.optimizer.state_dict())
    for _ in range(3):
        first.steps(1).check()
        second.steps(1).check()


def test_parameters_freed_while_they_have_no_gradient() -> None:
    """Storages of no bytes behind parameters of a shape, as sharded training leaves them."""
    twins = Twins(lambda: params(*SHAPES)).steps(2)
    for side in (twins.ours, twins.theirs):
        side.watched["kept"] = side.params[7].detach().clone()
        side.params[7].untyped_storage().resize_(0)
    tweeting = list(canaries([1200]))
    for side in (twins.ours, twins.theirs):
        for step in range(3):
            give_grads(side.optimizer, step, lambda step, i: i == 7)
            side.optimizer.step()
        side.params[7].untyped_storage().resize_(1200)
        side.params[7].data.copy_(side.watched["kept"])
    assert all(bool((canary == 7).all()) for canary in tweeting)
    twins.steps(2).check()


def test_a_freed_parameter_with_a_gradient_is_refused() -> None:
    """Where torch ends the process."""
    twins = Twins(lambda: params(*SHAPES)).steps(2)
    give_grads(twins.ours.optimizer, 5)
    twins.ours.params[7].untyped_storage().resize_(0)
    with pytest.raises((RuntimeError, ValueError)):
        twins.ours.optimizer.step()


def test_old_tensors_are_let_go() -> None:
    """No cache keeps what was replaced: parameters, gradients or moments."""
    side = Twins(lambda: params(*SHAPES)).steps(2).ours
    gone = {
        "parameter": weakref.ref(side.params[1]),
        "its gradient": weakref.ref(side.params[1].grad),
        "its moment": weakref.ref(side.state[side.params[1]]["exp_avg"]),
        "a replaced moment": weakref.ref(side.state[side.params[0]]["exp_avg_sq"]),
        "a replaced gradient": weakref.ref(side.params[2].grad),
    }
    side.state[side.params[0]]["exp_avg_sq"] = torch.ones(7)
    side.state.pop(side.group["params"].pop(1))
    side.optimizer.zero_grad()
    give_grads(side.optimizer, 1)
    side.optimizer.step()
    gc.collect()
    assert [what for what, reference in gone.items() if reference() is not None] == []


def test_an_optimizer_is_let_go() -> None:
    side = Twins(lambda: params(*SHAPES)).steps(2).ours
    gone = [
        weakref.ref(side.optimizer),
        weakref.ref(side.params[0]),
        weakref.ref(side.state[side.params[0]]["exp_avg"]),
    ]
    del side
    gc.collect()
    assert [reference() is None for reference in gone] == [True] * 3


def test_gradients_keep_their_values_in_all_changes() -> None:
    twins = Twins(lambda: params(*SHAPES), **options_for("Adam", "all")).steps(2)
    for what in ("copied", "state cleared", "parameters of one vector", "group added"):
        twins.each(CHANGES[what])
        twins.steps(2).check()  # steps compares the gradients
    assert_same_bits(twins.ours.params[0].grad, twins.theirs.params[0].grad)
