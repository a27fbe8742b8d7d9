# SPDX-License-Identifier: Apache-2.0
"""What a file that no reader takes seems to be."""

from __future__ import annotations

from pathlib import Path

_OF_SCANNERS = frozenset(
    {".bif", ".czi", ".dcm", ".mrxs", ".ndpi", ".scn", ".svs", ".svslide", ".vms", ".vmu"}
)
_TIFF = frozenset({".tif", ".tiff"})
_TIFF_BEGINS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""Of TIFF and BigTIFF, in either order of bytes."""


def damage_of(path: Path) -> str | None:
    """Return what is probably wrong with a slide file that no reader takes, as the end of a sentence.

    Returns
    -------
    str or None
        None where neither name nor content is a slide's.
    """
    if not path.is_file():
        return None
    with path.open("rb") as file:
        begins = file.read(4)
    damaged = "is empty" if not begins else "is damaged or incomplete"
    damaged += ": compare its size with the scanner's and copy it again"
    if path.suffix.lower() in _OF_SCANNERS or not begins:
        return damaged
    if path.suffix.lower() in _TIFF or begins in _TIFF_BEGINS:
        return f"{damaged}; or it is a picture without tiles, which is no slide"
    return None
