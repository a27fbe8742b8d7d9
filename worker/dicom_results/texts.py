# SPDX-License-Identifier: Apache-2.0
"""Text that fits into DICOM's short representations."""

from __future__ import annotations

import hashlib
import re
import unicodedata

_SHORT = 16
_LONG = 64
"""Longest values of the representations SH and LO, in characters (DICOM PS3.5, 6.2)."""


def short_code(text: str) -> str:
    """Return a code value of at most 16 plain characters, different for different texts.

    OHIF lists findings by their code value, so it stays readable where it can.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^A-Z0-9]+", "-", plain.upper()).strip("-")
    if slug and len(slug) <= _SHORT and _says_all(text):
        return slug
    digest = hashlib.sha256(text.encode()).hexdigest()[:6].upper()
    return f"{slug[: _SHORT - 7]}-{digest}".lstrip("-")


def _says_all(text: str) -> bool:
    """Whether a slug of this text is still its own: nothing in it but letters, digits and separators."""
    return re.fullmatch(r"[A-Za-z0-9 _-]+", text) is not None


def long_text(text: str, limit: int = _LONG) -> str:
    """Return one line of text that LO can hold: no control characters, no backslash."""
    line = "".join(" " if unicodedata.category(character)[0] == "C" else character for character in text)
    line = " ".join(line.replace("\\", "/").split())
    return line if len(line) <= limit else line[: limit - 3].rstrip() + "..."
