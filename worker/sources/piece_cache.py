# SPDX-License-Identifier: Apache-2.0
"""What was fetched or decoded, kept for a while within a bound of memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Piece = TypeVar("Piece")


class PieceCache(Generic[Key, Piece]):
    """Pieces by key, the least recently used dropped first; several threads may use one cache.

    Parameters
    ----------
    bound
        Bytes to keep at most; the last piece is kept even where it alone is larger.
    size_of
        Returns the bytes of a piece.
    """

    def __init__(self, bound: int, size_of: Callable[[Piece], int]) -> None:
        self._bound = bound
        self._size_of = size_of
        self._pieces: OrderedDict[Key, Piece] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, key: Key) -> Piece | None:
        """Return a piece, or None."""
        with self._lock:
            piece = self._pieces.get(key)
            if piece is not None:
                self._pieces.move_to_end(key)
            return piece

    def put(self, key: Key, piece: Piece) -> None:
        """Keep a piece."""
        with self._lock:
            previous = self._pieces.pop(key, None)
            self._pieces[key] = piece
            self._size += self._size_of(piece) - (0 if previous is None else self._size_of(previous))
            while self._size > self._bound and len(self._pieces) > 1:
                _, dropped = self._pieces.popitem(last=False)
                self._size -= self._size_of(dropped)
