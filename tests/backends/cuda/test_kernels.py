"""The CUDA kernels as PTX and as machine code, for which no device is needed."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest

from fastadam.memory.formats import ALL_FORMATS, BFLOAT16, FLOAT32, FORMATS, INT8, ROOT8
from fastadam.memory.structs import AMSGRAD, DECOUPLED, IDLE, L2, ROLES
from fastadam.step.variants import variant_of, variants_of
from tests.support.compact_memory import COMBINATIONS

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
kernels = pytest.importorskip("fastadam.backends.cuda.kernels", exc_type=ImportError)
if kernels.SIMULATED:
    pytest.skip("under the simulator nothing is compiled", allow_module_level=True)

from fastadam.backends.cuda import launches  # noqa: E402

CAPABILITIES = [(7, 5), (8, 0), (9, 0), (10, 0)]
VARIANTS = [
    int(variants_of(each.code, decay + amsgrad))
    for each in FORMATS
    for decay in (0, L2, DECOUPLED)
    for amsgrad in (0, AMSGRAD)
]
# The loads and stores of 16 bytes by which each format goes through memory; newer targets name no type in them.
VECTORS = {"float32": r"v4\.[fb]32", "float64": r"v2\.[fb]64", "bfloat16": r"v4\.[ub]32", "float16": r"v4\.[ub]32"}


ROOTS = {"div.rn.f64", "sqrt.rn.f64"}  # what the kernel of the norm's root has, too


def check(number: int, which: int, capability: tuple[int, int]) -> None:
    ptx, name = launches.compile_kernel(number, which, capability)
    variant = variant_of(number)
    number_format, amsgrad_on = kernels.format_of(variant), variant.amsgrad_on
    real, other = ("f64", "f32") if number_format.name == "float64" else ("f32", "f64")
    instructions = re.findall(r"^\s+(?:@!?%p\d+ )?([a-z][\w.:]*)", ptx, re.MULTILINE)
    found = set(instructions)
    # Every operation rounded on its own, to nearest, in the compute type; nothing in the other one.
    assert not [each for each in found if each.startswith(("fma", "mad.rn", "mad.f"))]
    assert not [each for each in found if other in each]
    # (In float64 a difference is mostly, but not always, written as the sum with a negated number.)
    arithmetic = {each for each in found if re.match(rf"(add|sub|mul|div|sqrt).*\.{real}", each)}
    wanted = {f"{each}.rn.{real}" for each in ("add", "sub", "mul", "div", "sqrt")}
    assert arithmetic | {f"sub.rn.{real}"} == wanted
    # All of it in registers and inlined, and all of memory global.
    assert not [each for each in found if "local" in each or each.startswith("call") or ".ftz" in each]
    assert not [each for each in found if re.match(r"(ld|st)\.(?!global|param)", each)]
    many = [each for each in instructions if re.fullmatch(rf"ld\.global\.{VECTORS[number_format.name]}", each)]
    stored = [each for each in instructions if re.fullmatch(rf"st\.global\.{VECTORS[number_format.name]}", each)]
    assert (len(many), len(stored)) == ((5, 4) if amsgrad_on else (4, 3))
    launches.link(ptx, capability)
    assert ptx.count(".visible .entry") == 1
    assert f".visible .entry {name}(" in ptx


@pytest.mark.parametrize("capability", CAPABILITIES, ids="{0[0]}.{0[1]}".format)
@pytest.mark.parametrize("which", [launches.FLAT, launches.TABLE], ids=["flat", "table"])
def test_the_plain_kernel(which: int, capability: tuple[int, int]) -> None:
    check(0, which, capability)


# (What differs between devices does not depend on the variant, and the plain kernel has been compiled for all.)
@pytest.mark.slow
@pytest.mark.parametrize("number", VARIANTS)
@pytest.mark.parametrize(
    ("which", "capability"),
    [(launches.FLAT, CAPABILITIES[0]), (launches.TABLE, CAPABILITIES[-1])],
    ids=["flat", "table"],
)
def test_every_kernel(number: int, which: int, capability: tuple[int, int]) -> None:
    check(number, which, capability)


@pytest.mark.parametrize("capability", CAPABILITIES[::3], ids="{0[0]}.{0[1]}".format)
@pytest.mark.parametrize(
    ("number", "which"),
    [*((each.code, launches.SQUARES) for each in FORMATS), (0, launches.ROOT)],
    ids=[*(f"squares of {each.name}" for each in FORMATS), "root"],
)
def test_the_kernels_of_the_norm(number: int, which: int, capability: tuple[int, int]) -> None:
    ptx, _ = launches.compile_kernel(number, which, capability)
    found = set(re.findall(r"^\s+(?:@!?%p\d+ )?([a-z][\w.:]*)", ptx, re.MULTILINE))
    # Every operation in float64, rounded on its own, and sums of threads as whole numbers.
    arithmetic = {each for each in found if re.match(r"(add|sub|mul|div|sqrt|fma|mad).*\.f(16|32|64)", each)}
    wanted = {"add.rn.f64", "mul.rn.f64"}
    assert arithmetic - {"sub.rn.f64"} == (wanted if which == launches.SQUARES else wanted | ROOTS)
    adding = {each for each in found if each.startswith(("atom", "red"))}
    assert not [each for each in adding if not re.fullmatch(r"(atom|red)(\.\w+)*\.global\.add\.[us]64", each)]
    assert bool(adding) == (which == launches.SQUARES)
    assert not [each for each in found if "local" in each or each.startswith("call") or ".ftz" in each]
    launches.link(ptx, capability)


def check_general(combination: str, flags: int, which: int, capability: tuple[int, int]) -> None:
    """No operation of the formula, and none of the codecs, can be fused with another one."""
    each = [next(each for each in ALL_FORMATS if each.name == name) for name in COMBINATIONS[combination].split()]
    number = int(variants_of([[one.code] for one in each], [flags])[0])
    ptx, _ = launches.compile_kernel(number, which, capability)
    instructions = re.findall(r"^\s+(?:@!?%p\d+ )?([a-z][\w.:]*)", ptx, re.MULTILINE)
    found = set(instructions)
    assert not [each for each in found if each.startswith(("fma", "mad.rn", "mad.f"))]
    arithmetic = {each for each in found if re.match(r"(add|sub|div|sqrt).*\.f(16|32|64)", each)}
    assert not [each for each in arithmetic if ".rn." not in each]
    assert bool(arithmetic) == (which == launches.AVERAGES or not flags & IDLE)
    assert not [each for each in found if "local" in each or each.startswith("call") or ".ftz" in each]
    # Only threads that step numbers of a block tell each other something.
    in_blocks = any(one in (INT8, ROOT8) for one in each) and not flags & IDLE
    assert instructions.count("bar.sync") == in_blocks
    assert any("shared" in each for each in found) == in_blocks
    assert not [each for each in found if re.match(r"(ld|st)\.(?!global|param|shared)", each)]
    # By as few loads as there can be, and one for each number where arrays are not aligned.
    wide = [each for each in instructions if re.match(r"ld\.global\.v[24]", each)]
    assert len(wide) >= (2 if flags & IDLE else len(ROLES) - 1)
    launches.link(ptx, capability)


def test_the_general_kernels() -> None:
    check_general("int8 state", DECOUPLED, launches.TABLE, (7, 5))
    check_general("bfloat16 with masters", IDLE, launches.AVERAGES, (9, 0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("combination", "more"), [*zip(COMBINATIONS, itertools.cycle([False, True]), strict=False)], ids=str
)
def test_general_kernels_of_every_combination(combination: str, more: bool) -> None:
    check_general(
        combination,
        AMSGRAD if more else L2,
        launches.AVERAGES if more else launches.TABLE,
        CAPABILITIES[-1] if more else CAPABILITIES[0],
    )


def check_averages(number_format: Any, flags: int, capability: tuple[int, int]) -> None:
    """Every operation is rounded on its own here, too, and where there is no gradient, nothing else is read."""
    ptx, _ = launches.compile_kernel(int(variants_of(number_format.code, flags)), launches.AVERAGES, capability)
    real, other = ("f64", "f32") if number_format.name == "float64" else ("f32", "f64")
    instructions = re.findall(r"^\s+(?:@!?%p\d+ )?([a-z][\w.:]*)", ptx, re.MULTILINE)
    found = set(instructions)
    assert not [each for each in found if each.startswith(("fma", "mad.rn", "mad.f")) or other in each]
    arithmetic = {each for each in found if re.match(rf"(add|sub|mul|div|sqrt).*\.{real}", each)}
    of_step = set() if flags == IDLE else {f"div.rn.{real}", f"sqrt.rn.{real}"}
    assert arithmetic | {f"sub.rn.{real}"} == {f"{each}.rn.{real}" for each in ("add", "sub", "mul")} | of_step
    assert not [each for each in found if "local" in each or each.startswith("call") or ".ftz" in each]
    assert not [each for each in found if re.match(r"(ld|st)\.(?!global|param)", each)]
    averages = {"float32": 1, "float64": 1, "bfloat16": 2, "float16": 2}[number_format.name]
    wide = [re.match(r"(ld|st)\.global\.v[24]\.", each) for each in instructions]
    loads = [each for each in wide if each and each[1] == "ld"]
    stores = [each for each in wide if each and each[1] == "st"]
    stored = {0: 3, AMSGRAD: 4, IDLE: 0}[flags]
    assert len(stores) == stored + averages
    # The parameters are read back, unless the compiler knows them.
    assert len(loads) - (stored + 1 + averages) in (0, 1)
    launches.link(ptx, capability)


def test_the_kernels_of_averages() -> None:
    check_averages(FLOAT32, 0, (9, 0))
    check_averages(BFLOAT16, IDLE, (9, 0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "capability"),
    [(0, CAPABILITIES[0]), (AMSGRAD, CAPABILITIES[-1]), (IDLE, CAPABILITIES[0])],
    ids=["plain", "amsgrad", "idle"],
)
@pytest.mark.parametrize("number_format", FORMATS, ids=[each.name for each in FORMATS])
def test_every_kernel_of_averages(number_format: Any, flags: int, capability: tuple[int, int]) -> None:
    check_averages(number_format, flags, capability)


@pytest.mark.parametrize("capability", CAPABILITIES[::3], ids="{0[0]}.{0[1]}".format)
def test_the_kernel_of_zeros(capability: tuple[int, int]) -> None:
    ptx, _ = launches.compile_kernel(0, launches.ZEROS, capability)
    found = set(re.findall(r"^\s+(?:@!?%p\d+ )?([a-z][\w.:]*)", ptx, re.MULTILINE))
    assert [each for each in found if re.fullmatch(r"st\.global\.v4\.[bu]32", each)]
    assert not [each for each in found if "local" in each or each.startswith("call")]
    assert not [each for each in found if re.match(r"(ld|st)\.(?!global|param)", each)]
    launches.link(ptx, capability)


def test_arguments_lie_where_their_pointers_say() -> None:
    import ctypes

    arguments = launches.Arguments(2, "f")
    arguments.write(1, 2**40, *range(10), 1e300)
    pointers = (ctypes.c_uint64 * 13).from_address(arguments.pointers)
    assert [ctypes.c_int64.from_address(place).value for place in pointers[:2]] == [1, 2**40]
    reals = [ctypes.c_float.from_address(place).value for place in pointers[2:]]
    assert reals == [*range(10), float("inf")]
    assert list(arguments.values()) == [1, 2**40, *reals]
    double = launches.Arguments(7, "d")
    double.write(*range(7), *[0.1] * 11)
    assert list(double.values()) == [*range(7), *[0.1] * 11]
