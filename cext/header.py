"""Write ``cext/structs.h`` from the table in ``fastadam/memory/structs.py``: ``python cext/header.py --write``.

Without ``--write`` it is only compared, and the exit code is 1 if it differs. The header is checked in, so that
building the extension needs no Python package but cffi.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from fastadam.memory import formats, native, structs  # noqa: E402, F401 - structs fills the table

HEADER = HERE / "structs.h"
COLUMNS = 115
INTRODUCTION = (
    "The memory that C and Python share. Written by cext/header.py from fastadam/memory/structs.py: change that, "
    "and write this anew. An int64_t may be a number or an address."
)


def comment(text: str) -> str:
    """Return a comment in lines of the length that clang-format allows."""
    lines = textwrap.wrap(f"/* {text} */", COLUMNS, subsequent_indent=" * ", break_on_hyphens=False)
    return "\n".join(lines)


def type_of(field: native.Field) -> str:
    """Return the C type of a field."""
    for struct in native.TABLE.values():
        if field.type is struct.dtype:
            return f"fastadam_{struct.name}"
    return {native.INT64: "int64_t", native.FLOAT64: "double"}[field.type]


def blocks() -> Iterator[str]:
    """Yield the parts of the header, which blank lines part."""
    yield comment(INTRODUCTION)
    yield "#ifndef FASTADAM_STRUCTS_H\n#define FASTADAM_STRUCTS_H"
    yield "#include <stdint.h>"
    for constants in native.CONSTANTS:
        lines = [f"    FASTADAM_{name} = {value}," for name, value in constants.values.items()]
        yield "\n".join([comment(constants.says), "enum {", *lines, "};"])
    itemsizes = ", ".join(str(each.stored.itemsize) for each in formats.FORMATS)
    yield f"{comment('Bytes of a number in each of the formats.')}\n#define FASTADAM_ITEMSIZES {{{itemsizes}}}"
    for struct in native.TABLE.values():
        lines = [f"    {type_of(field)} {field.name};" for field in struct.fields]
        yield "\n".join([comment(struct.says), "typedef struct {", *lines, f"}} fastadam_{struct.name};"])
    yield "#endif"


def text() -> str:
    """Return the header."""
    return "\n\n".join(blocks()).replace("*/\n\n#ifndef", "*/\n#ifndef", 1) + "\n"


def main() -> int:
    """Write the header, or compare it; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the header instead of comparing it")
    if parser.parse_args().write:
        HEADER.write_text(text())
    elif not HEADER.exists() or HEADER.read_text() != text():
        print(f"{HEADER} is not what fastadam/memory/structs.py says: python cext/header.py --write")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
