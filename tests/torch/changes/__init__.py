"""What can be changed between two steps behind the back of fastadam.torch, by name: `CHANGES`."""

from tests.torch.changes import groups, optimizers, parameters, state
from tests.torch.changes.listed import SHAPES

CHANGES = {**parameters.CHANGES, **state.CHANGES, **groups.CHANGES, **optimizers.CHANGES}

__all__ = ["CHANGES", "SHAPES"]
