# SPDX-License-Identifier: AGPL-3.0-or-later
"""The patches in a worker's ``attention.npz``, read without numpy.

The arrays in the archive: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import io
import math
import re
import struct
import sys
import zipfile
import zlib
from array import array
from dataclasses import dataclass
from typing import Any

from orthanc_plugin.errors import PluginError

MOST_PATCHES = 500_000
"""More than the largest slides have; as GeoJSON they are 125 MB, which are held once."""

_ENTRY = b"PK\x01\x02"
_MOST_ENTRIES = 100
"""Many more than a worker writes. To list a million, which fit, takes ten seconds and 800 MB."""

_MAGIC = b"\x93NUMPY"
_HEADER = re.compile(
    r"\{'descr': '(?P<descr>[^']*)', 'fortran_order': (?P<fortran_order>True|False), "
    r"'shape': \((?P<shape>[0-9, ]*)\), \}\s*"
)
"""As numpy writes it. It is a Python literal; reading any such would let it end the server by its nesting."""
_HEADER_LENGTHS = {1: "<H", 2: "<I", 3: "<I"}
_LONGEST_HEADER = 4096
_TYPES = {"<f8": "d", "<f4": "f", "<i8": "q", "<i4": "i"}
_MOST_BYTES = 2 * 8 * MOST_PATCHES + _LONGEST_HEADER
"""Of the longest array, the coordinates: two numbers of eight bytes a patch."""

_DAMAGE = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
)
"""How the standard library says that an archive, or an array in it, is damaged."""


class UnreadableAttentionError(PluginError):
    """The file holds no patches in the form that workers write."""


@dataclass(frozen=True)
class Patches:
    """Every patch of a result, in level-0 pixels of the slide.

    Attributes
    ----------
    corners
        x and y of the top-left corners, one patch after the other.
    width, height
        Of every patch.
    attention
        Share of each patch in the prediction.
    percentile
        Rank of the attention within the slide, 0 to 100.
    """

    corners: array[Any]
    width: float
    height: float
    attention: array[Any]
    percentile: array[Any]


def read_attention(content: bytes) -> Patches:
    """Return the patches in an ``attention.npz``.

    Raises
    ------
    UnreadableAttentionError
        Where it is damaged, holds other arrays than it should, or more than `MOST_PATCHES`.
    """
    if content.count(_ENTRY) > _MOST_ENTRIES:
        raise UnreadableAttentionError(f"attention.npz holds more than {_MOST_ENTRIES} files.")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            corners, footprint, attention, percentile = (
                _numbers(archive, name) for name in ("coords", "footprint", "attention", "percentile")
            )
    except _DAMAGE as error:
        raise UnreadableAttentionError(f"attention.npz cannot be read: {error}.") from error
    if len(footprint) != 2 or not len(corners) == 2 * len(attention) == 2 * len(percentile):
        raise UnreadableAttentionError("attention.npz holds arrays that do not belong together.")
    if not all(all(map(math.isfinite, array)) for array in (footprint, corners, attention, percentile)):
        raise UnreadableAttentionError("attention.npz holds values that are no numbers.")
    return Patches(corners, footprint[0], footprint[1], attention, percentile)


def _numbers(archive: zipfile.ZipFile, name: str) -> array[Any]:
    """Return the numbers of an array, row by row. What is compressed may be a bomb: it is read to a limit."""
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:  # numpy writes no other
        raise ValueError(f"{name} is packed in a way that numpy does not know")
    with archive.open(info) as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"{name} holds more than {MOST_PATCHES:,} patches")
    if not content.startswith(_MAGIC):
        raise ValueError(f"{name} is no array")
    form = _HEADER_LENGTHS[content[len(_MAGIC)]]
    start = len(_MAGIC) + 2
    (length,) = struct.unpack_from(form, content, start)
    begin = start + struct.calcsize(form)
    if length > _LONGEST_HEADER:
        raise ValueError(f"the header of {name} is too long")
    header = _HEADER.fullmatch(content[begin : begin + length].decode("latin-1"))
    if header is None:
        raise ValueError(f"the header of {name} is not numpy's")
    if header["fortran_order"] == "True":
        raise ValueError(f"{name} lies column by column")
    numbers = array(_TYPES[header["descr"]])
    numbers.frombytes(content[begin + length :])
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
