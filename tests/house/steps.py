"""Take steps and print, as JSON, which modules of the package each one enters; see ``python -m tests.house``.

Run by path, with the folder that holds the package. It imports nothing else of the repository, so that it can look
at the packages of other commits, too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

WARM = 3  # steps before the one that is looked at, so that all that is cached is cached


def entered(package: Path, step: Callable[[], Any]) -> list[str]:
    """Return the modules that a step enters from another one, in order.

    A module is entered where one of its functions is called from another module of the package, through code of
    others perhaps, or from outside. Calls of native code are not seen.
    """
    folder = str(package) + "/"
    found: list[str] = []

    def module(frame: FrameType | None) -> str | None:
        while frame is not None and not frame.f_code.co_filename.startswith(folder):
            frame = frame.f_back
        if frame is None:
            return None
        parts = Path(frame.f_code.co_filename).relative_to(package).with_suffix("").parts
        return ".".join(part for part in parts if part != "__init__") or package.name

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(folder):
            name = module(frame)
            if name is not None and name != module(frame.f_back):
                found.append(name)

    sys.setprofile(profile)
    try:
        step()
    finally:
        sys.setprofile(None)
    return found


def arrays_in_place() -> Callable[[], Any]:
    """Return a step over three arrays."""
    import numpy as np

    import fastadam

    optimizer = fastadam.Adam([np.ones((4, 3)), np.ones(3), np.ones(())])
    grads = [np.full(shape, 0.5) for shape in ((4, 3), (3,), ())]
    return lambda: optimizer.step(grads)


def packed() -> Callable[[], Any]:
    """Return a step over three arrays in one buffer."""
    import numpy as np

    import fastadam

    flat = fastadam.pack([np.ones((4, 3)), np.ones(3), np.ones(())])
    flat.grad[...] = 0.5
    return fastadam.Adam(flat).step


def torch() -> Callable[[], Any]:
    """Return a step over three tensors."""
    import torch

    import fastadam.torch

    params = [torch.nn.Parameter(torch.ones(shape)) for shape in ((4, 3), (3,), ())]
    for param in params:
        param.grad = torch.full_like(param, 0.5)
    return fastadam.torch.Adam(params).step


WAYS: dict[str, Callable[[], Callable[[], Any]]] = {
    "fastadam.Adam.step(grads)": arrays_in_place,
    "fastadam.Adam.step(), packed": packed,
    "fastadam.torch.Adam.step()": torch,
}


def main(folder: str) -> None:
    """Look at a step of each kind; one whose libraries are missing has the reason in the place of modules."""
    sys.path.insert(0, folder)
    found: dict[str, list[str] | str] = {}
    for what, make in WAYS.items():
        try:
            step = make()
        except ImportError as error:
            found[what] = str(error)
            continue
        for _ in range(WARM):
            step()
        found[what] = entered(Path(sys.modules["fastadam"].__file__ or "").parent, step)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
