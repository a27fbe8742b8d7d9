# SPDX-License-Identifier: Apache-2.0
"""Which font writes a text: the one that comes with Pillow knows a to z, those of the computer know more.

A letter that a font lacks would be a box, and classes whose names are boxes cannot be told apart.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import lru_cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

INSTALLED = (
    *("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "NanumGothic.ttf"),
    *("segoeui.ttf", "malgun.ttf", "msyh.ttc", "YuGothR.ttc"),
    *("AppleSDGothicNeo.ttc", "Arial Unicode.ttf"),
)
"""Files that Pillow finds where Debian, Windows and macOS keep fonts; the first that will do is taken."""
HOW_TO_GET = "Debian: fonts-nanum for Korean, fonts-noto-cjk for East Asia, fonts-dejavu-core for Europe"

_NO_LETTER = "\uffff"
"""In no font, by Unicode's own promise: drawing it shows what a font draws for letters that it lacks."""


def written(text: str, size: int) -> tuple[str, Font]:
    r"""Return a text as it can be written, and a font of a size that has all its letters.

    Where no font here has them, those that are lacking are named by their code points, such as ``\uc591``.
    """
    composed = unicodedata.normalize("NFC", text)
    for font in _fonts(size):
        if not _lacking(composed, font):
            return composed, font
    plain = ImageFont.load_default(size)
    lacking = _lacking(composed, plain)
    return "".join(_code_point(letter) if letter in lacking else letter for letter in composed), plain


def can_be_written(text: str) -> bool:
    """Tell whether a font here has all letters of a text."""
    return written(text, 15)[0] == unicodedata.normalize("NFC", text)


def _fonts(size: int) -> Iterator[Font]:
    yield ImageFont.load_default(size)
    for name in INSTALLED:
        if (font := _installed(name, size)) is not None:
            yield font


@lru_cache
def _installed(name: str, size: int) -> Font | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _lacking(text: str, font: Font) -> set[str]:
    box = _drawn(_NO_LETTER, font)
    return {letter for letter in set(text) if not letter.isspace() and _drawn(letter, font) == box}


def _drawn(letter: str, font: Font) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


def _code_point(letter: str) -> str:
    return letter.encode("ascii", "backslashreplace").decode()
