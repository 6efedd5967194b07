"""Adam as a library of its own: the optimizer step for people who have arrays and gradients."""

from typing import TYPE_CHECKING

from fastadam.adam import Adam, AdamW
from fastadam.backends import BackendUnavailableError, available_backends
from fastadam.checkpoint import load, save
from fastadam.memory.packed import Packed, pack
from fastadam.memory.parameter import Parameter
from fastadam.minimizing import Minimized, minimize

if TYPE_CHECKING:
    from fastadam import schedules
else:

    def __getattr__(name):
        """Import what is not always needed when it is first asked for."""
        if name == "schedules":
            from importlib import import_module

            return import_module("fastadam.schedules")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__version__ = "0.1.0"

__all__ = [
    "Adam",
    "AdamW",
    "BackendUnavailableError",
    "Minimized",
    "Packed",
    "Parameter",
    "__version__",
    "available_backends",
    "load",
    "minimize",
    "pack",
    "save",
    "schedules",
]


def __dir__() -> list[str]:
    """Show the public names, and the public modules that have been imported."""
    modules = {"backends", "convert", "scipy", "sklearn", "thinc", "torch"}
    return sorted(
        name for name in {*globals(), *__all__} if name in modules or name in __all__ or name.startswith("__")
    )


for _each in (BackendUnavailableError, Minimized, Packed, Parameter):  # so that pickles name the public place
    _each.__module__ = __name__
del _each
