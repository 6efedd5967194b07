"""Parts that are missing or broken: the reason is said, and what is there serves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import AVAILABLE
from tests.support.processes import needs_numba, python

MISSING = """
import sys

if "c" in sys.argv[1:]:
    sys.modules["fastadam.backends._c"] = None

import numpy as np

import fastadam

name = sys.argv[1]
print(fastadam.available_backends()[name])
try:
    fastadam.Adam([np.ones(3)], backend=name)
except fastadam.BackendUnavailableError as error:
    print(error)
opt = fastadam.Adam([np.ones(3)])
opt.step([np.ones(3)])
print(opt.backend)
"""
AUTO_WITHOUT_NUMBA = "c" if "c" in AVAILABLE else "numpy"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ImportError('no numba here')", "numba cannot be imported (ImportError: no numba here); try: pip"),
        ("raise SystemError('wrong ABI')", "numba cannot be imported (SystemError: wrong ABI); try: pip"),
        (
            "import no_such_module",
            "numba cannot be imported (ModuleNotFoundError: No module named 'no_such_module')",
        ),
    ],
)
def test_numba_that_cannot_be_imported(tmp_path: Path, source: str, reason: str) -> None:
    (tmp_path / "numba.py").write_text(source)
    out = python(MISSING, "numba", PYTHONPATH=str(tmp_path)).splitlines()
    assert out[0].startswith(reason)
    assert out[1:] == [f"backend 'numba' is not available: {out[0]}", AUTO_WITHOUT_NUMBA]
    assert python(MISSING, "numba", "c", PYTHONPATH=str(tmp_path)).splitlines()[-1] == "numpy"


@needs_numba
def test_numba_without_its_compiler() -> None:
    out = python(MISSING, "numba", NUMBA_DISABLE_JIT="1").splitlines()
    assert out[0].startswith("NUMBA_DISABLE_JIT is set")
    assert out[1:] == [f"backend 'numba' is not available: {out[0]}", AUTO_WITHOUT_NUMBA]


def test_c_extension_that_cannot_be_imported() -> None:
    out = python(MISSING, "c").splitlines()
    assert out[0].startswith("the C extension was not built or cannot be loaded (")
    assert "install a C compiler" in out[0]
    assert out[1] == f"backend 'c' is not available: {out[0]}"
    state = python("import fastadam; print(fastadam.available_backends()['numba'])")
    assert out[2] == ("numba" if state == "available\n" else "numpy")


def test_pickle_of_a_backend_that_is_missing_elsewhere(tmp_path: Path) -> None:
    """An optimizer that chose its backend itself chooses again where it is loaded."""
    save = (
        "import pickle, sys, numpy as np, fastadam\n"
        "opt = fastadam.Adam([np.ones(3)])\n"
        "opt.step([np.ones(3)])\n"
        "open(sys.argv[1], 'wb').write(pickle.dumps(opt))\n"
    )
    load = (
        "import pickle, sys; sys.modules['fastadam.backends._c'] = None\n"
        "import numpy as np, fastadam\n"
        "opt = pickle.load(open(sys.argv[1], 'rb'))\n"
        "opt.step([np.ones(3)])\n"
        "print(opt.state[0]['step'], opt.backend != 'c')\n"
    )
    python(save, str(tmp_path / "opt"))
    assert python(load, str(tmp_path / "opt"), NUMBA_DISABLE_JIT="1") == "2 True\n"
