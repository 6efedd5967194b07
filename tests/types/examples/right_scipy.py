"""Right uses with SciPy, in which type checkers find nothing."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, minimize, rosen, rosen_der

import fastadam.scipy
from fastadam.schedules import Cosine


def bowl(x: NDArray[np.float64], scale: float = 1.0) -> tuple[float, NDArray[np.float64]]:
    return float(x @ x) / 2, x


def told(x: NDArray[Any]) -> None:
    pass


minimize(rosen, np.zeros(4), jac=rosen_der, method=fastadam.scipy.adam)
minimize(rosen, np.zeros(4), jac=rosen_der, method=fastadam.scipy.adam, bounds=[(-2, 2)] * 4, tol=1e-5)
found = fastadam.scipy.adam(bowl, [1.0, 2.0], jac=True, lr=Cosine(0.1, 100), maxiter=100, patience=None)
found = fastadam.scipy.adam(bowl, np.ones(3), (2.0,), True, bounds=[(0.5, None), (None, 1), (0, 1)], gtol=1e-5)
found = fastadam.scipy.adam(rosen, (1, 2), jac=rosen_der, bounds=Bounds(0, 1), callback=told, backend="numpy")
fastadam.scipy.adam(lambda x: (x @ x, 2 * x), 0.0, jac=True, betas=(0.8, 0.9), disp=True, keep_best=True)
