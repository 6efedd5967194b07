"""Write ``cext/constants.h`` and ``structs.h`` from the table in ``structs.py`` and ``tensor_structs.py``.

``python cext/header.py --write`` does; without ``--write`` they are only compared, and the exit code is 1 if one
differs. They are checked in, so that building the extension needs no Python package but cffi.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from fastadam.memory import formats, native, structs, tensor_structs  # noqa: E402, F401 - the last two fill the table

COLUMNS = 115
WRITTEN = (
    "Written by cext/header.py from structs.py and tensor_structs.py in fastadam/memory: change these, and write "
    "this anew."
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


def array_of(field: native.Field) -> str:
    """Return what C writes behind the name of a field that is an array."""
    return f"[{field.length}]" if field.length > 1 else ""


def constants() -> Iterator[str]:
    """Yield the parts of ``constants.h``."""
    yield comment(f"The constants that C and Python share. {WRITTEN}")
    for each in native.CONSTANTS:
        lines = [f"    FASTADAM_{name} = {value}," for name, value in each.values.items()]
        yield "\n".join([comment(each.says), "enum {", *lines, "};"])
    itemsizes = ", ".join(str(each.stored.itemsize) for each in formats.ALL_FORMATS)
    yield f"{comment('Bytes of a number in each of the formats.')}\n#define FASTADAM_ITEMSIZES {{{itemsizes}}}"


def memory() -> Iterator[str]:
    """Yield the parts of ``structs.h``."""
    yield comment(f"The memory that C and Python share. {WRITTEN} An int64_t may be a number or an address.")
    yield '#include <stdint.h>\n\n#include "constants.h"'
    for struct in native.TABLE.values():
        lines = [f"    {type_of(field)} {field.name}{array_of(field)};" for field in struct.fields]
        yield "\n".join([comment(struct.says), "typedef struct {", *lines, f"}} fastadam_{struct.name};"])


def texts() -> dict[Path, str]:
    """Return the headers: where they are, and what is in them."""
    found = {}
    for name, blocks in (("constants", constants()), ("structs", memory())):
        guard = f"FASTADAM_{name.upper()}_H"
        introduction, *rest = blocks
        begin = f"{introduction}\n#ifndef {guard}\n#define {guard}"
        found[HERE / f"{name}.h"] = "\n\n".join([begin, *rest, "#endif"]) + "\n"
    return found


def main() -> int:
    """Write the headers, or compare them; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write them instead of comparing them")
    writes = parser.parse_args().write
    for path, text in texts().items():
        if writes:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            print(f"{path} is not what fastadam/memory/*structs.py say: python cext/header.py --write")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
