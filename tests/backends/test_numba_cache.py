"""The cache of Numba's machine code: shared by processes, damaged, or in no folder at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.processes import COMMON, needs_numba, python

SMALL = (
    COMMON
    + """
import numba
from fastadam.backends import numba as numba_cpu
from numba.core import caching


def step():
    w = np.ones(100)
    opt = fastadam.Adam([w], backend="numba", threads=1)
    opt.step([np.linspace(0, 1, 100)])
    opt.step([np.linspace(1, 2, 100)])
    return w.tobytes()


def check(what):
    numba_cpu._kernels.clear()  # so that the kernel is compiled, or loaded, again
    assert step() == expected, what


w = np.ones(100)
opt = fastadam.Adam([w], backend="numpy")
opt.step([np.linspace(0, 1, 100)])
opt.step([np.linspace(1, 2, 100)])
expected = w.tobytes()
"""
)


VARIANT = """
import itertools

kinds = [*itertools.product((np.float32,), (0.0, 0.1), (False, True), (1,)), (np.float32, 0.1, True, 2)]
fastadam.step.threads.ELEMENTS_PER_THREAD = 8


def run(backend, dtype, weight_decay, amsgrad, threads):
    w = np.linspace(-1, 1, 100).astype(dtype)
    opt = fastadam.Adam([w], weight_decay=weight_decay, amsgrad=amsgrad, backend=backend, threads=threads)
    for t in range(3):
        opt.step([np.linspace(t - 2, 1, 100).astype(dtype)])
    return w.tobytes()


chosen = kinds if sys.argv[1] == "all" else [kinds[int(sys.argv[1])]]
for kind in chosen:
    assert run("numba", *kind) == run("numpy", *kind), kind
print("same bits")
"""


@needs_numba
@pytest.mark.slow
def test_variants_cached_by_different_processes_do_not_mix(tmp_path: Path) -> None:
    """Numba knows compiled functions by their names, which must differ between variants."""
    for which in ("0", "1", "2", "3", "all", "all"):
        assert python(COMMON + VARIANT, which, NUMBA_CACHE_DIR=str(tmp_path)) == "same bits\n"


@needs_numba
@pytest.mark.slow
def test_cache_in_the_next_process_and_damaged(tmp_path: Path) -> None:
    """Kernels are compiled once; a cache that cannot be read is no reason to fail."""
    python(SMALL + "check('first')", NUMBA_CACHE_DIR=str(tmp_path))
    code = """
from pathlib import Path


def files():
    return {path: path.read_bytes() for path in Path(sys.argv[1]).rglob("*.nb?")}


whole = files()
assert sorted(path.suffix for path in whole) == [".nbc", ".nbi"]
check("from the cache")
assert files() == whole, "compiled again"
for suffix in (".nbi", ".nbc"):
    for damage in (b"rubbish" * 99, None):
        for path, content in whole.items():
            cut_short = content[: len(content) // 2]
            path.write_bytes((damage or cut_short) if path.suffix == suffix else content)
        check((suffix, damage))
print("same bits")
"""
    assert python(SMALL + code, str(tmp_path), NUMBA_CACHE_DIR=str(tmp_path)) == "same bits\n"


@needs_numba
@pytest.mark.slow
def test_cache_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for folder in ("/dev/null/cache", str(tmp_path / "file")):
        python(SMALL + "check('no folder')", NUMBA_CACHE_DIR=folder)


@needs_numba
@pytest.mark.slow
def test_cache_that_fails(tmp_path: Path) -> None:
    code = """
def full(*args, **kwargs):
    raise OSError(28, "No space left on device")


for owner, name, value in (
    (caching.CacheImpl, "_locator_classes", []),  # no folder can be written: raises at decoration
    (caching.IndexDataCacheFile, "save", full),
    (caching.IndexDataCacheFile, "load", full),
    (caching.CompileResultCacheImpl, "reduce", full),
):
    before = owner.__dict__[name]
    setattr(owner, name, value)
    check(name)
    setattr(owner, name, before)
print("same bits")
"""
    assert python(SMALL + code, NUMBA_CACHE_DIR=str(tmp_path)) == "same bits\n"
