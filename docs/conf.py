"""How Sphinx builds these pages: Markdown through MyST, the API reference from docstrings, mathematics by MathJax.

`./run docs` builds them into docs/_build; a warning is an error. The pages stay readable where they lie, so two things
are translated on the way: links that leave docs/, and docstrings, which are plain English and not reStructuredText.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent.resolve()
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

project = "flspan"
author = "the flspan authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "flspan"
html_copy_source = False
html_show_copyright = False

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # a docstring says what its arguments are, with shapes and units, which a type cannot
autodoc_default_options = {"members": True, "show-inheritance": True}
add_module_names = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
nitpicky = True
nitpick_ignore_regex = [("py:(class|exc|obj|attr)", ".*")]  # bases and raised errors outside of the reference

# --- links -----------------------------------------------------------------------------------------------------------

STUBS = {"readme": ROOT / "README.md", "contributing": ROOT / "CONTRIBUTING.md", "changes": ROOT / "CHANGELOG.md"}
"""Pages whose text lies in the root, where people look for it first."""
_LINK = re.compile(r"(?P<mark>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)]*)?\)")


def translated(text: str, folder: Path, page: Path) -> str:
    """A page's text with links that Sphinx can follow.

    Args:
        folder: what the text's links are relative to.
        page: where the page lies.
    """

    def link(found: re.Match[str]) -> str:
        place = (folder / found["target"]).resolve()
        if "://" in found["target"] or not place.exists():
            return found[0]
        if place.is_dir():  # there is no page of it: the path itself is what helps
            path = f"`{place.relative_to(ROOT)}/`"
            return path if found["text"].strip("`/") == path.strip("`/") else f"{found['text']} ({path})"
        place = next((HERE / f"{name}.md" for name, file in STUBS.items() if file == place), place)
        return f"{found['mark']}[{found['text']}]({os.path.relpath(place, page.parent)}{found['anchor'] or ''})"

    return _LINK.sub(link, text)


def read_source(app: Any, docname: str, source: list[str]) -> None:
    """A page on its way into Sphinx."""
    page = HERE / f"{docname}.md"
    if docname in STUBS:
        source[0] = translated(STUBS[docname].read_text(encoding="utf-8"), ROOT, page)
    elif page.exists():
        source[0] = translated(source[0], page.parent, page)


# --- docstrings ------------------------------------------------------------------------------------------------------

_SECTION = re.compile(r"(Args|Raises|Attributes|Returns|Yields):$")
_DRAWN = frozenset("├│└")
_NAMED = re.compile(r"[a-z_]+: ")
_BULLET = re.compile(r" *[*-] ")
_CODE = re.compile(r"(:\w+:)?(`+)([^`]+)\2")


def marked_up(line: str) -> str:
    """A line of English as reStructuredText: `x` is code, and |x|, * and a trailing _ are themselves."""
    bullet = _BULLET.match(line)
    done, at = (bullet[0], bullet.end()) if bullet else ("", 0)
    for found in _CODE.finditer(line, at):
        done += _escaped(line[at : found.start()])
        done += found[0] if found[1] else f"``{found[3]}``"
        at = found.end()
    return done + _escaped(line[at:])


def _escaped(text: str) -> str:
    return re.sub(r"([*|])|(?<=\w)(_)(?!\w)", lambda found: "\\" + found[0], text)


def process_docstring(app: Any, what: str, name: str, it: Any, options: Any, lines: list[str]) -> None:
    """Formulas, tables and trees become literal blocks; the rest is marked up."""
    result: list[str] = []
    in_section = False
    for paragraph in "\n".join(lines).strip("\n").split("\n\n"):
        rows = paragraph.split("\n")
        if not rows[0].startswith(" "):
            in_section = bool(_SECTION.match(rows[0]))
        is_drawn = any(row[:1] in _DRAWN for row in rows if row)
        if not in_section and sum(bool(_NAMED.match(row)) for row in rows) > 1 and _NAMED.match(rows[0]):
            rows = [("* " if _NAMED.match(row) else "  ") + row.strip() for row in rows]
        if is_drawn or (rows[0].startswith("    ") and not in_section):
            result += ["::", "", *("    " + row for row in rows), ""]
        else:
            result += [*map(marked_up, rows), ""]
    lines[:] = ["", *result] if what in ("property", "attribute") else result  # else napoleon takes "γ: …" for a type


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", read_source)
    app.connect("autodoc-process-docstring", process_docstring, priority=100)  # before napoleon's
