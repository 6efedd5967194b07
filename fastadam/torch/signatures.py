"""What our constructors show as their signature: torch's, and what we take besides."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from fastadam.step.after import Averaging
from fastadam.step.gradient_settings import Choices
from fastadam.torch.options import PRECISION


def with_choices(torchs: Callable[..., Any]) -> inspect.Signature:
    """Return torch's signature of a method with what we take behind its own parameters, to be given by name."""
    signature = inspect.signature(torchs)
    ours = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in (Choices._field_defaults | Averaging._field_defaults | PRECISION).items()
    ]
    return signature.replace(parameters=[*signature.parameters.values(), *ours])
