"""Adam as a library of its own: the optimizer step for people who have arrays and gradients."""

from typing import TYPE_CHECKING

from fastadam.adam import Adam
from fastadam.adamw import AdamW
from fastadam.backends import BackendUnavailableError, available_backends
from fastadam.checkpoint import load, save
from fastadam.clipping import clip_grad_norm
from fastadam.memory.packed import Packed, pack
from fastadam.memory.parameter import Parameter
from fastadam.memory.rows import Rows
from fastadam.minimizing import Minimized, minimize
from fastadam.step.backend import BackendName as Backend
from fastadam.step.hyperparameters import Schedule

if TYPE_CHECKING:
    from fastadam import schedules
    from fastadam.groups.forms import Options, ParamGroup, Params
    from fastadam.memory.forms import Grads
else:
    # What is not always needed is imported when it is first asked for.
    _LATER = {
        "Grads": "fastadam.memory.forms",
        "Options": "fastadam.groups.forms",
        "ParamGroup": "fastadam.groups.forms",
        "Params": "fastadam.groups.forms",
    }

    def __getattr__(name):
        """Import what has not been needed so far."""
        from importlib import import_module

        if name == "schedules":
            return import_module("fastadam.schedules")
        if name in _LATER:
            return getattr(import_module(_LATER[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__version__ = "0.1.0"

__all__ = [
    "Adam",
    "AdamW",
    "Backend",
    "BackendUnavailableError",
    "Grads",
    "Minimized",
    "Options",
    "Packed",
    "ParamGroup",
    "Parameter",
    "Params",
    "Rows",
    "Schedule",
    "__version__",
    "available_backends",
    "clip_grad_norm",
    "load",
    "minimize",
    "pack",
    "save",
    "schedules",
]


def __dir__() -> list[str]:
    """Show the public names, and the public modules that have been imported."""
    modules = {"backends", "convert", "mpi", "scipy", "sklearn", "thinc", "torch"}
    return sorted(
        name for name in {*globals(), *__all__} if name in modules or name in __all__ or name.startswith("__")
    )


for _each in (
    BackendUnavailableError,
    Minimized,
    Packed,
    Parameter,
    Rows,
):  # so that pickles name the public place
    _each.__module__ = __name__
del _each
