"""Wrong uses of the face for arrays; each line has the errors that type checkers must find there, and no others."""

import numpy as np
from numpy.typing import NDArray

import fastadam
from fastadam.schedules import Cosine, Join, Warmup

w = np.ones(3)
whole = np.arange(3)
half: NDArray[np.float16] = np.ones(3, np.float16)
text: NDArray[np.str_] = np.array(["w"])
optimizer = fastadam.Adam(w)
flat = fastadam.pack([w])

# Parameters.
fastadam.Adam()  # mypy: call-arg, pyright: reportCallIssue
fastadam.Adam("nonsense")  # mypy: arg-type, pyright: reportArgumentType
fastadam.Adam(b"nonsense")  # mypy: arg-type, pyright: reportArgumentType
fastadam.Adam(["w", "b"])  # mypy: list-item, pyright: reportArgumentType
fastadam.Adam({"w": "w"})  # mypy: dict-item, pyright: reportArgumentType
fastadam.Adam(None)  # mypy: arg-type, pyright: reportArgumentType
fastadam.Adam(3)  # mypy: arg-type, pyright: reportArgumentType
fastadam.Adam([3.0])  # mypy: list-item, pyright: reportArgumentType
fastadam.Adam([[1.0, 2.0]])  # mypy: list-item, pyright: reportArgumentType
fastadam.Adam({"w": [3.0]})  # mypy: list-item, pyright: reportArgumentType
fastadam.Adam({1: w})  # mypy: dict-item, pyright: reportArgumentType
fastadam.Adam([("w", 3)])  # mypy: list-item, pyright: reportArgumentType
fastadam.Adam(x for x in "abc")  # mypy: misc, pyright: reportArgumentType
fastadam.Adam(whole)  # mypy: arg-type, pyright: reportArgumentType
fastadam.Adam(half)  # mypy: arg-type, pyright: reportArgumentType
fastadam.Adam(text)  # mypy: arg-type, pyright: reportArgumentType
fastadam.Adam([whole])  # mypy: list-item, pyright: reportArgumentType
fastadam.Adam({"w": whole})  # mypy: dict-item, pyright: reportArgumentType
fastadam.Adam({"a": [{"w": whole}]})  # mypy: dict-item, pyright: reportArgumentType
fastadam.Adam([flat])  # mypy: list-item, pyright: reportArgumentType
fastadam.Adam(lambda: w)  # mypy: arg-type, pyright: reportArgumentType
fastadam.Adam({fastadam.Parameter(w)})  # mypy: arg-type, pyright: reportArgumentType
fastadam.AdamW("nonsense")  # mypy: arg-type, pyright: reportArgumentType
fastadam.Parameter([1.0])  # mypy: arg-type, pyright: reportArgumentType
fastadam.Parameter(whole)  # mypy: arg-type, pyright: reportArgumentType
fastadam.Parameter(w).grad = 3  # mypy: assignment, pyright: reportAttributeAccessIssue
fastadam.pack("nonsense")  # mypy: arg-type, pyright: reportArgumentType
fastadam.pack(w)  # mypy: arg-type, pyright: reportArgumentType
fastadam.pack([fastadam.Parameter(w)])  # mypy: list-item, pyright: reportArgumentType
fastadam.pack([w], device=1)  # mypy: arg-type, pyright: reportArgumentType

# Groups.
fastadam.Adam([{"params": w, "lr": "fast"}])  # mypy: dict-item, pyright: reportArgumentType
fastadam.Adam([{"params": w, "learning_rate": 0.1}])  # mypy: dict-item, pyright: reportArgumentType
fastadam.Adam([{"params": w, "betas": (0.1, 0.2, 0.3)}])  # mypy: dict-item, pyright: reportArgumentType
fastadam.Adam([{"params": "w", "lr": 0.1}])  # mypy: dict-item, pyright: reportArgumentType
optimizer.add_param_group({"params": w, "lr": "fast"})  # mypy: dict-item, pyright: reportArgumentType
optimizer.add_param_group([w])  # mypy: arg-type, pyright: reportArgumentType

# Options.
fastadam.Adam(w, backend="torch")  # mypy: arg-type, pyright: reportArgumentType
fastadam.Adam(w, backend=None)  # mypy: arg-type, pyright: reportArgumentType
fastadam.Adam(w, lr="fast")  # mypy: arg-type, pyright: reportArgumentType
fastadam.Adam(w, lr=None)  # mypy: arg-type, pyright: reportArgumentType
fastadam.Adam(w, lr=lambda: 0.1)  # mypy: arg-type, pyright: reportArgumentType
fastadam.Adam(w, lr=lambda step: "fast")  # mypy: arg-type, pyright: reportArgumentType
fastadam.Adam(w, betas=(0.9, 0.99, 0.999))  # mypy: arg-type, pyright: reportArgumentType
fastadam.Adam(w, betas=0.9)  # mypy: arg-type, pyright: reportArgumentType
fastadam.Adam(w, eps="1e-8")  # mypy: arg-type, pyright: reportArgumentType
fastadam.Adam(w, weight_decay=None)  # mypy: arg-type, pyright: reportArgumentType
fastadam.Adam(w, amsgrad="no")  # mypy: arg-type, pyright: reportArgumentType
fastadam.Adam(w, threads="all")  # mypy: arg-type, pyright: reportArgumentType
fastadam.Adam(w, threads=0.5)  # mypy: arg-type, pyright: reportArgumentType
fastadam.Adam(w, learning_rate=0.1)  # mypy: call-arg, pyright: reportCallIssue
fastadam.Adam(w, 0.1, (0.9, 0.99), 1e-8, 0, False, True)  # mypy: call-arg, pyright: reportCallIssue
fastadam.AdamW(w, decoupled_weight_decay=False)  # mypy: call-arg, pyright: reportCallIssue
fastadam.AdamW(w, backend="torch")  # mypy: arg-type, pyright: reportArgumentType
options: fastadam.Options = {"learning_rate": 0.1}  # mypy: typeddict-unknown-key, pyright: reportAssignmentType
backend: fastadam.Backend = "torch"  # mypy: assignment, pyright: reportAssignmentType
fastadam.available_backends()["torch"]  # mypy: index, pyright: reportArgumentType
Cosine("fast", 100)  # mypy: arg-type, pyright: reportArgumentType
Cosine(0.1)  # mypy: call-arg, pyright: reportCallIssue
Warmup(lambda step: 0.1, 100)  # mypy: arg-type, pyright: reportArgumentType
Join([0.1, 0.2], 100)  # mypy: arg-type, pyright: reportArgumentType

# Gradients.
optimizer.step(3)  # mypy: call-overload, pyright: reportArgumentType
optimizer.step(3.0)  # mypy: call-overload, pyright: reportArgumentType
optimizer.step("nonsense")  # mypy: arg-type, pyright: reportArgumentType
optimizer.step([3.0])  # mypy: list-item, pyright: reportArgumentType
optimizer.step({"w": 3.0})  # mypy: dict-item, pyright: reportArgumentType
optimizer.step({"a": [{"w": "w"}]})  # mypy: dict-item, pyright: reportArgumentType
optimizer.step(whole)  # mypy: arg-type, pyright: reportArgumentType
optimizer.step([whole])  # mypy: list-item, pyright: reportArgumentType
optimizer.step(flat)  # mypy: call-overload, pyright: reportArgumentType
optimizer.step(lambda: 0.5)  # mypy: call-overload, pyright: reportArgumentType
optimizer.step([w], lambda: 0.5)  # mypy: call-overload, pyright: reportCallIssue
optimizer.step(closure=0.5)  # mypy: call-overload, pyright: reportArgumentType, reportCallIssue
optimizer.step(closure=lambda x: x)  # mypy: arg-type, misc, pyright: reportArgumentType, reportCallIssue


def closure() -> float:
    return 0.5


wrong: str = optimizer.step(closure=closure)  # mypy: assignment, pyright: reportAssignmentType
none: float = optimizer.step([w])  # mypy: assignment, pyright: reportAssignmentType

# Others.
fastadam.save(3, optimizer)  # mypy: arg-type, pyright: reportArgumentType
fastadam.save("run", w)  # mypy: arg-type, pyright: reportArgumentType
fastadam.save("run", optimizer, extra=[1])  # mypy: arg-type, pyright: reportArgumentType
fastadam.load(optimizer, "run")  # mypy: arg-type, pyright: reportArgumentType


def bowl(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    return float(x @ x) / 2, x


def alone(x: NDArray[np.float64]) -> float:
    return float(x @ x) / 2


fastadam.minimize(bowl, w)  # mypy: call-overload, pyright: reportCallIssue
fastadam.minimize(bowl, "nonsense", steps=3)  # mypy: arg-type, type-var, pyright: reportArgumentType
fastadam.minimize(alone, w, steps=3)  # mypy: arg-type, pyright: reportArgumentType
fastadam.minimize(bowl, w, steps=3, lr="fast")  # mypy: call-overload, pyright: reportArgumentType
fastadam.minimize(bowl, w, steps=3, rate=0.1)  # mypy: call-overload, pyright: reportCallIssue
fastadam.minimize(bowl, w, steps=3, backend="torch")  # mypy: call-overload, pyright: reportArgumentType
