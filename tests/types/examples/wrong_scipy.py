"""Wrong uses with SciPy; comments are the codes of errors that mypy | pyright must find in a line."""

import numpy as np
from numpy.typing import NDArray

from fastadam.scipy import adam


def bowl(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    return float(x @ x) / 2, x


adam()  # call-arg | reportCallIssue
adam("nonsense", [1.0], jac=True)  # arg-type | reportArgumentType
adam(bowl, [1.0], jac="2-point")  # arg-type | reportArgumentType
adam(bowl, [1.0], jac=True, lr="fast")  # arg-type | reportArgumentType
adam(bowl, [1.0], jac=True, backend="torch")  # arg-type | reportArgumentType
adam(bowl, [1.0], jac=True, maxiter="all")  # arg-type | reportArgumentType
adam(bowl, [1.0], jac=True, gtol="small")  # arg-type | reportArgumentType
adam(bowl, [1.0], jac=True, callback=3)  # arg-type | reportArgumentType
adam(bowl, [1.0], jac=True, hess=bowl)  # arg-type | reportArgumentType
adam(bowl, [1.0], jac=True, constraints=[{"type": "eq"}])  # arg-type | reportArgumentType
adam(lambda x: "nonsense", [1.0], jac=True)  # arg-type, return-value | reportArgumentType
