"""What is remembered of parameters."""

from __future__ import annotations

from collections import defaultdict

import pytest

torch = pytest.importorskip("torch")

from tests.support.torch_cases import (  # noqa: E402
    Side,
    draw,
)
from tests.torch.changes.listed import like, new_list  # noqa: E402

CHANGES, change = new_list()


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
