"""The optimizer as a whole."""

from __future__ import annotations

import copy
import pickle

import pytest

torch = pytest.importorskip("torch")

from tests.support.torch_cases import (  # noqa: E402
    Side,
    give_grads,
    members,
)
from tests.torch.changes.listed import new_list  # noqa: E402

CHANGES, change = new_list()


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
