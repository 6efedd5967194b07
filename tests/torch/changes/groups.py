"""Groups, and their options."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from tests.support.torch_cases import (  # noqa: E402
    Parameter,
    Side,
    draw,
    params,
)
from tests.torch.changes.listed import like, new_list  # noqa: E402

CHANGES, change = new_list()


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
