"""What the reference shows of the source: types, defaults as numbers, equations between dollars."""

from __future__ import annotations

import ast
import re
import textwrap
from typing import Any

from griffe import Class, Extension, Function, Object, Visitor

from fastadam.step import after, gradient_settings, hyperparameters

INLINE = re.compile(r":math:`([^`]+)`")
# On the line of the directive, or indented below it.
BLOCK = re.compile(r"(?m)^([ ]*)\.\. math::[ ]*(\S.*)?\n((?:[ ]*\n|\1[ ]+\S.*\n)*)")
DEFAULT = re.compile(r"(?:\w+\.)?DEFAULTS\.(\w+)")
DEFAULTS = {
    name: value
    for module in (hyperparameters, gradient_settings, after)
    for name, value in module.DEFAULTS._asdict().items()
}


def to_dollars(text: str) -> str:
    """Return a docstring with its equations, ``.. math::`` and ``:math:`` in numpydoc, between dollars."""

    def block(found: re.Match[str]) -> str:
        inner = "\n".join([found[2] or "", textwrap.dedent(found[3])]).strip()
        if "&=" in inner:
            inner = rf"\begin{{aligned}}{inner}\end{{aligned}}"
        return textwrap.indent(f"\n$$\n{inner}\n$$\n\n", found[1])

    return INLINE.sub(r"$\1$", BLOCK.sub(block, text + "\n")).rstrip()


class Shown(Extension):  # type: ignore[misc]
    """Rewrite what is read from the source."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite an object's docstring."""
        if obj.docstring:
            obj.docstring.value = to_dollars(obj.docstring.value)

    def on_class_members(self, *, node: ast.AST, cls: Class, agent: Visitor, **_: Any) -> None:
        """Prefer what a class has for type checkers, who are told more than `*args`."""
        for each in getattr(node, "body", []):
            if isinstance(each, ast.If) and ast.unparse(each.test) == "TYPE_CHECKING":
                for member in each.body:
                    agent.visit(member)

    def on_function(self, *, func: Function, **_: Any) -> None:
        """Put the numbers in the place of the table in which the source keeps them."""
        for parameter in func.parameters:
            if found := DEFAULT.fullmatch(str(parameter.default)):
                parameter.default = repr(DEFAULTS[found[1]])
