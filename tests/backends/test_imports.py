"""What is imported, and when: no backend loads another, and the package loads none."""

from __future__ import annotations

import pytest

from tests.support.processes import needs_c, python


def test_import_loads_numpy_and_nothing_heavier() -> None:
    code = """
import sys

import numpy

before = set(sys.modules)
import fastadam

new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(new - {"numpy"} - set(sys.stdlib_module_names)))
heavy = ("numba", "torch", "scipy", "matplotlib", "safetensors", "tqdm", "_cffi_backend", "fastadam.backends._c")
print([name for name in heavy if name in sys.modules])
"""
    assert python(code) == "['fastadam']\n[]\n"


@needs_c
@pytest.mark.parametrize("name", ["c", "auto"])
def test_c_backend_does_not_import_numba(name: str) -> None:
    code = """
import sys

import numpy as np

import fastadam

opt = fastadam.Adam([np.ones(300_000)], backend=sys.argv[1])
opt.step([np.ones(300_000)])
opt.step([np.ones(600_000)[::2]])
print(opt.backend, "numba" in sys.modules)
"""
    assert python(code, name) == "c False\n"


def test_numpy_backend_imports_no_other() -> None:
    code = (
        "import sys, numpy as np, fastadam\n"
        "fastadam.Adam([np.ones(3)], backend='numpy').step([np.ones(3)])\n"
        "print([name for name in ('numba', 'fastadam.backends._c') if name in sys.modules])"
    )
    assert python(code) == "[]\n"
