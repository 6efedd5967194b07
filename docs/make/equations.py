"""Equations, from LaTeX to MathML while the site is built, so that a browser needs no script to show them."""

from __future__ import annotations

import html
import re

from math_core import LatexToMathML

# What pymdownx.arithmatex leaves of $...$ and $$...$$.
INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def on_page_content(content: str, /, **_: object) -> str:
    """Put MathML in the place of every equation of a page; one that is not LaTeX ends the build."""
    latex = LatexToMathML()

    def to_mathml(found: re.Match[str]) -> str:
        equation = html.unescape(found[1]).strip()
        return str(latex.convert_with_local_state(equation, displaystyle=found.re is BLOCK))

    return INLINE.sub(to_mathml, BLOCK.sub(to_mathml, content))
