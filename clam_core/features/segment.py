# SPDX-License-Identifier: Apache-2.0
"""A file of chunks that is only ever appended to, and read with suspicion.

A chunk is written by one call::

    "CLF1"  rows  dim  SHA-256 of (key, corners, features)
    corners (rows, 2) int64
    features (rows, dim) float32

all little-endian. A file that ends within a chunk was left by a process that was killed, or another one is
just writing it: what is whole before counts. A chunk whose hash differs was damaged on the disk.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from clam_core.features.store import Chunk

_MAGIC = b"CLF1"
_HEADER = struct.Struct("<4sII32s")
_CORNER = np.dtype("<i8")
_VALUE = np.dtype("<f4")
_MOST_ROWS = 1 << 20
"""A header that says more was damaged: it must not make anybody allocate that much."""


class DamagedChunkError(Exception):
    """A chunk is not what was written.

    Parameters
    ----------
    offset
        Bytes before it, all of them whole chunks.
    """

    def __init__(self, offset: int) -> None:
        super().__init__(f"damaged from byte {offset} on")
        self.offset = offset


def packed(chunk: Chunk, key: str) -> bytes:
    """Return the bytes of a chunk that belongs to a key's digest."""
    rows, dim = chunk.features.shape
    payload = chunk.coordinates.astype(_CORNER).tobytes() + chunk.features.astype(_VALUE).tobytes()
    return _HEADER.pack(_MAGIC, rows, dim, _hash(key, payload)) + payload


def chunks_in(file: BinaryIO, key: str, dim: int) -> Iterator[Chunk]:
    """Yield the chunks of a file, each verified, up to where the file ends.

    Raises
    ------
    DamagedChunkError
        If a chunk is not what was written, or belongs to another key.
    """
    while len(header := file.read(_HEADER.size)) == _HEADER.size:
        offset = file.tell() - _HEADER.size
        magic, rows, width, digest = _HEADER.unpack(header)
        if magic != _MAGIC or width != dim or rows > _MOST_ROWS:
            raise DamagedChunkError(offset)
        size = rows * (2 * _CORNER.itemsize + dim * _VALUE.itemsize)
        payload = file.read(size)
        if len(payload) < size:
            return
        if _hash(key, payload) != digest:
            raise DamagedChunkError(offset)
        yield _unpacked(payload, rows, dim)


def _unpacked(payload: bytes, rows: int, dim: int) -> Chunk:
    corners = np.frombuffer(payload, _CORNER, 2 * rows).reshape(rows, 2)
    values = np.frombuffer(payload, _VALUE, rows * dim, rows * 2 * _CORNER.itemsize).reshape(rows, dim)
    return Chunk(corners.astype(np.int64), values.astype(np.float32))


def _hash(key: str, payload: bytes) -> bytes:
    return hashlib.sha256(key.encode() + payload).digest()
