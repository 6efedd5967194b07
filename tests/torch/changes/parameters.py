"""Where parameters lie."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from tests.support.torch_cases import (  # noqa: E402
    Parameter,
    Side,
    canaries,
    draw,
)
from tests.torch.changes.listed import like, new_list  # noqa: E402

CHANGES, change = new_list()


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
