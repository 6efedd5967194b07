"""Adam as a library of its own: the optimizer step for people who have arrays and gradients."""

from fastadam.adam import Adam, AdamW
from fastadam.backends import BackendUnavailableError, available_backends
from fastadam.checkpoint import load, save
from fastadam.clipping import clip_grad_norm
from fastadam.memory.packed import Packed, pack
from fastadam.memory.parameter import Parameter

__version__ = "0.1.0"

__all__ = [
    "Adam",
    "AdamW",
    "BackendUnavailableError",
    "Packed",
    "Parameter",
    "__version__",
    "available_backends",
    "clip_grad_norm",
    "load",
    "pack",
    "save",
]


def __dir__() -> list[str]:
    """Show the public names, and the public modules that have been imported."""
    modules = {"backends", "convert", "torch"}
    return sorted(name for name in globals() if name in modules or name in __all__ or name.startswith("__"))


for _each in (BackendUnavailableError, Packed, Parameter):  # so that pickles name the public place
    _each.__module__ = __name__
del _each
