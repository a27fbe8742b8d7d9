# SPDX-License-Identifier: Apache-2.0
"""Text that fits into DICOM's short representations."""

from __future__ import annotations

import hashlib
import re
import unicodedata

_SHORT = 16
_LONG = 64
"""Longest values of the representations SH and LO, in characters (DICOM PS3.5, 6.2)."""


_PLAIN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9 _-]*[A-Za-z0-9])?")
"""Spaces at an end of a value count for nothing in DICOM."""


def short_code(text: str) -> str:
    """Return a code value of at most 16 plain characters, different for different texts.

    OHIF lists findings by their code value, so a short plain text is its own, in upper and lower case: ``Ta``
    is not ``TA``.
    """
    if len(text) <= _SHORT and _PLAIN.fullmatch(text):
        return text
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^A-Z0-9]+", "-", plain.upper()).strip("-")
    digest = hashlib.sha256(text.encode()).hexdigest()[:6].upper()
    return f"{slug[: _SHORT - 7]}-{digest}".lstrip("-")


def long_text(text: str, limit: int = _LONG) -> str:
    """Return one line of text that LO can hold: no control characters, no backslash."""
    line = "".join(" " if unicodedata.category(character)[0] == "C" else character for character in text)
    line = " ".join(line.replace("\\", "/").split())
    return line if len(line) <= limit else line[: limit - 3].rstrip() + "..."
