"""Wrong uses of the face for arrays; comments are the codes of errors that mypy | pyright must find in a line."""

import numpy as np
from numpy.typing import NDArray

import fastadam
from fastadam.schedules import Cosine, Join, Warmup

w = np.ones(3)
whole = np.arange(3)
long: NDArray[np.longdouble] = np.ones(3, np.longdouble)
text: NDArray[np.str_] = np.array(["w"])
optimizer = fastadam.Adam(w)
flat = fastadam.pack([w])

# Parameters.
fastadam.Adam()  # call-arg | reportCallIssue
fastadam.Adam("nonsense")  # arg-type | reportArgumentType
fastadam.Adam(b"nonsense")  # arg-type | reportArgumentType
fastadam.Adam(["w", "b"])  # list-item | reportArgumentType
fastadam.Adam({"w": "w"})  # dict-item | reportArgumentType
fastadam.Adam(None)  # arg-type | reportArgumentType
fastadam.Adam(3)  # arg-type | reportArgumentType
fastadam.Adam([3.0])  # list-item | reportArgumentType
fastadam.Adam([[1.0, 2.0]])  # list-item | reportArgumentType
fastadam.Adam({"w": [3.0]})  # list-item | reportArgumentType
fastadam.Adam({1: w})  # dict-item | reportArgumentType
fastadam.Adam([("w", 3)])  # list-item | reportArgumentType
fastadam.Adam(x for x in "abc")  # misc | reportArgumentType
fastadam.Adam(whole)  # arg-type | reportArgumentType
fastadam.Adam(long)  # arg-type | reportArgumentType
fastadam.Adam(text)  # arg-type | reportArgumentType
fastadam.Adam([whole])  # list-item | reportArgumentType
fastadam.Adam({"w": whole})  # dict-item | reportArgumentType
fastadam.Adam({"a": [{"w": whole}]})  # dict-item | reportArgumentType
fastadam.Adam([flat])  # list-item | reportArgumentType
fastadam.Adam(lambda: w)  # arg-type | reportArgumentType
fastadam.Adam({fastadam.Parameter(w)})  # arg-type | reportArgumentType
fastadam.AdamW("nonsense")  # arg-type | reportArgumentType
fastadam.Parameter([1.0])  # arg-type | reportArgumentType
fastadam.Parameter(whole)  # arg-type | reportArgumentType
fastadam.Parameter(w).grad = 3  # assignment | reportAttributeAccessIssue
fastadam.pack("nonsense")  # arg-type | reportArgumentType
fastadam.pack(w)  # arg-type | reportArgumentType
fastadam.pack([fastadam.Parameter(w)])  # list-item | reportArgumentType
fastadam.pack([w], device=1)  # arg-type | reportArgumentType

# Groups.
fastadam.Adam([{"params": w, "lr": "fast"}])  # dict-item | reportArgumentType
fastadam.Adam([{"params": w, "learning_rate": 0.1}])  # dict-item | reportArgumentType
fastadam.Adam([{"params": w, "betas": (0.1, 0.2, 0.3)}])  # dict-item | reportArgumentType
fastadam.Adam([{"params": "w", "lr": 0.1}])  # dict-item | reportArgumentType
optimizer.add_param_group({"params": w, "lr": "fast"})  # dict-item | reportArgumentType
optimizer.add_param_group([w])  # arg-type | reportArgumentType

# Options.
fastadam.Adam(w, backend="torch")  # arg-type | reportArgumentType
fastadam.Adam(w, backend=None)  # arg-type | reportArgumentType
fastadam.Adam(w, lr="fast")  # arg-type | reportArgumentType
fastadam.Adam(w, lr=None)  # arg-type | reportArgumentType
fastadam.Adam(w, lr=lambda: 0.1)  # arg-type | reportArgumentType
fastadam.Adam(w, lr=lambda step: "fast")  # arg-type | reportArgumentType
fastadam.Adam(w, betas=(0.9, 0.99, 0.999))  # arg-type | reportArgumentType
fastadam.Adam(w, betas=0.9)  # arg-type | reportArgumentType
fastadam.Adam(w, eps="1e-8")  # arg-type | reportArgumentType
fastadam.Adam(w, weight_decay=None)  # arg-type | reportArgumentType
fastadam.Adam(w, amsgrad="no")  # arg-type | reportArgumentType
fastadam.Adam(w, threads="all")  # arg-type | reportArgumentType
fastadam.Adam(w, threads=0.5)  # arg-type | reportArgumentType
fastadam.Adam(w, learning_rate=0.1)  # call-arg | reportCallIssue
fastadam.Adam(w, 0.1, (0.9, 0.99), 1e-8, 0, False, True)  # call-arg | reportCallIssue
fastadam.AdamW(w, decoupled_weight_decay=False)  # call-arg | reportCallIssue
fastadam.AdamW(w, backend="torch")  # arg-type | reportArgumentType
options: fastadam.Options = {"learning_rate": 0.1}  # typeddict-unknown-key | reportAssignmentType
backend: fastadam.Backend = "torch"  # assignment | reportAssignmentType
fastadam.available_backends()["torch"]  # index | reportArgumentType
Cosine("fast", 100)  # arg-type | reportArgumentType
Cosine(0.1)  # call-arg | reportCallIssue
Warmup(lambda step: 0.1, 100)  # arg-type | reportArgumentType
Join([0.1, 0.2], 100)  # arg-type | reportArgumentType

# Gradients.
optimizer.lr = "fast"  # assignment | reportAttributeAccessIssue
optimizer.betas = 0.9  # assignment | reportAttributeAccessIssue
optimizer.betas = (0.9, 0.99, 0.999)  # assignment | reportAttributeAccessIssue
optimizer.eps = None  # assignment | reportAttributeAccessIssue
optimizer.weight_decay = "0"  # assignment | reportAttributeAccessIssue
optimizer.amsgrad = "no"  # assignment | reportAttributeAccessIssue
optimizer.learning_rate = 0.1  # attr-defined | reportAttributeAccessIssue
optimizer.backend = "torch"  # assignment | reportAttributeAccessIssue
optimizer.threads = "all"  # assignment | reportAttributeAccessIssue
optimizer.state = {}  # assignment, misc | reportAttributeAccessIssue
text_lr: str = fastadam.Adam(w).lr  # assignment | reportAssignmentType
optimizer.step(3)  # call-overload | reportArgumentType
optimizer.step(3.0)  # call-overload | reportArgumentType
optimizer.step("nonsense")  # arg-type | reportArgumentType
optimizer.step([3.0])  # list-item | reportArgumentType
optimizer.step({"w": 3.0})  # dict-item | reportArgumentType
optimizer.step({"a": [{"w": "w"}]})  # dict-item | reportArgumentType
optimizer.step(whole)  # arg-type | reportArgumentType
optimizer.step([whole])  # list-item | reportArgumentType
optimizer.step(flat)  # call-overload | reportArgumentType
optimizer.step(lambda: 0.5)  # call-overload | reportArgumentType
optimizer.step(fastadam.Rows("abc", w))  # arg-type | reportArgumentType
optimizer.step([w], mask=[True])  # call-overload | reportArgumentType
fastadam.Adam(w, lazy="later")  # arg-type | reportArgumentType
optimizer.step([w], lambda: 0.5)  # call-overload | reportArgumentType
optimizer.step(closure=0.5)  # call-overload | reportArgumentType, reportCallIssue
optimizer.step(closure=lambda x: x)  # arg-type, misc | reportArgumentType, reportCallIssue


def closure() -> float:
    return 0.5


wrong: str = optimizer.step(closure=closure)  # assignment | reportAssignmentType
none: float = optimizer.step([w])  # assignment | reportAssignmentType

# Others.
fastadam.save(3, optimizer)  # arg-type | reportArgumentType
fastadam.save("run", w)  # arg-type | reportArgumentType
fastadam.save("run", optimizer, extra=[1])  # arg-type | reportArgumentType
fastadam.load(optimizer, "run")  # arg-type | reportArgumentType


def bowl(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    return float(x @ x) / 2, x


def alone(x: NDArray[np.float64]) -> float:
    return float(x @ x) / 2


fastadam.minimize(bowl, w)  # call-overload | reportCallIssue
fastadam.minimize(bowl, "nonsense", steps=3)  # arg-type, type-var | reportArgumentType
fastadam.minimize(alone, w, steps=3)  # arg-type | reportArgumentType
fastadam.minimize(bowl, w, steps=3, lr="fast")  # call-overload | reportArgumentType
fastadam.minimize(bowl, w, steps=3, rate=0.1)  # call-overload | reportCallIssue
fastadam.minimize(bowl, w, steps=3, backend="torch")  # call-overload | reportArgumentType
