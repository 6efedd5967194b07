"""The state of Adam from and to other libraries, so that training goes on here, or there.

`from_torch`, `from_optax` and `from_keras` write into an optimizer; `to_torch`, `to_optax` and `to_keras` return
what the other library loads. All check everything first. The parameters' values are not converted: they are in the
arrays that you hold. The other library is imported when its function is called.
"""

from fastadam.convert.keras import from_keras, to_keras
from fastadam.convert.optax import from_optax, to_optax
from fastadam.convert.torch import from_torch, to_torch

__all__ = ["from_keras", "from_optax", "from_torch", "to_keras", "to_optax", "to_torch"]
