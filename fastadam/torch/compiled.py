"""Steps where torch.compile is tracing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch


@torch._disable_dynamo  # type: ignore[untyped-decorator]
def outside_of_graphs(
    step: Callable[..., Any], optimizer: torch.optim.Adam, args: tuple[Any, ...], options: Mapping[str, Any]
) -> Any:
    """Step with the graph interrupted, as native code cannot be traced.

    `step` is our class's own, not the optimizer's method, which may be a subclass's or a wrapper that has called
    it: the body of that has run already.
    """
    # While torch traces, it takes groups for capturable whose options are edited in the same function. Nothing on
    # the CPU can be captured, and torch's compiled step does not ask there.
    for group in optimizer.param_groups:
        if group["capturable"] and all(param.device.type == "cpu" for param in group["params"]):
            group["capturable"] = False
    return step(optimizer, *args, **options)
