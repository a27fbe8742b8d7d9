# SPDX-License-Identifier: AGPL-3.0-or-later
"""How `make docs` builds the pages: Sphinx with MyST, every warning an error."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import rest_reference  # noqa: E402 - the line above says where it lies

from orthanc_plugin import __version__  # noqa: E402 - as above

project = "Orthanc pathology"
author = "the contributors"
release = version = __version__
extensions = ["myst_parser"]
html_theme = "furo"
html_title = f"Orthanc pathology {__version__}"
exclude_patterns = ["_build"]
myst_heading_anchors = 4
nitpicky = True
# Examples of JSON with an ellipsis in them.
suppress_warnings = ["misc.highlighting_failure"]

_OUTSIDE = re.compile(r"\]\((\.\./[^)#\s]*)(#[^)\s]*)?\)")


def _name_what_lies_outside(_app: Any, _page: str, source: list[str]) -> None:
    """Name files of the repository that the pages link to: only there can they be followed."""
    source[0] = _OUTSIDE.sub(lambda match: f"](#outside) (`{_path(match[1])}`)", source[0])
    source[0] = re.sub(r"\[`?([^\]`]*)`?\]\(#outside\) \(`([^`]*)`\)", _once, source[0])


def _path(link: str) -> str:
    return link.removeprefix("../").removeprefix("../")


def _once(match: re.Match[str]) -> str:
    text, path = match[1], match[2]
    return (
        f"`{path}`" if text.rstrip("/") == path.rstrip("/") or path.endswith(text) else f"{text} (`{path}`)"
    )


def setup(app: Any) -> None:
    """Write the page of the routes before the pages are read."""
    rest_reference.write(HERE / "rest-reference.md")
    app.connect("source-read", _name_what_lies_outside)
