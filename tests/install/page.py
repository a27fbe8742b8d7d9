# SPDX-License-Identifier: Apache-2.0
"""The commands that a page of the documents tells its readers."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
_BLOCK = re.compile(r"^(?P<indent> *)```sh\n(?P<lines>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)


def blocks(page: str) -> list[str]:
    """Return the shell blocks of a text in Markdown, in their order."""
    return [textwrap.dedent(match["lines"]) for match in _BLOCK.finditer(page)]


def commands(name: str, heading: str) -> list[str]:
    """Return the shell blocks between a heading of a page and the next heading.

    Raises
    ------
    LookupError
        If the page has no such heading, or no command stands below it: it was renamed or moved.
    """
    below = re.split(rf"^#+ {re.escape(heading)}\n", (DOCS / name).read_text("utf-8"), flags=re.MULTILINE)
    found = blocks(re.split(r"^#+ ", below[1], flags=re.MULTILINE)[0]) if len(below) == 2 else []
    if not found:
        raise LookupError(f"docs/{name} has no commands below the heading {heading!r}")
    return found
