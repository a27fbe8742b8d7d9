# SPDX-License-Identifier: Apache-2.0
"""Which of many points lie inside a polygon, exactly.

The points of a patch grid share few rows. Per row, the polygon's crossings are found once, with integers
only, and each point is told by the number of crossings to its right (even-odd rule). The answers are those of
OpenCV's `pointPolygonTest` for integer points, at a fraction of its cost: that one walks the whole polygon
for every point.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


class RowCrossings:
    """A polygon cut along horizontal lines.

    Parameters
    ----------
    polygon
        Closed polygon, (n, 2) integers, (x, y).
    rows
        The y of the lines, integers, sorted, without repeats.
    """

    def __init__(self, polygon: NDArray[np.integer], rows: Integers) -> None:
        self._rows = rows
        start = polygon.astype(np.int64)
        end = np.roll(start, -1, axis=0)
        self._left = int(start[:, 0].min()) - 1
        # One key per (row, x): a row's keys are contiguous and sorted by x.
        self._stride = int(start[:, 0].max()) + 2 - self._left
        upward = start[:, 1:] <= end[:, 1:]
        low = np.where(upward, start, end)
        high = np.where(upward, end, start)
        self._crossings = np.sort(self._crossing_keys(low, high))
        self._flat_starts, self._flat_ends = self._flat_edges(low, high)
        self._touching = np.unique(self._touching_keys(low, high))

    def locate(self, x: Integers, row: NDArray[np.intp]) -> NDArray[np.int8]:
        """Tell where points lie.

        Parameters
        ----------
        x
            The points' x, any shape.
        row
            Index of the points' y in `rows`, same shape.

        Returns
        -------
        numpy.ndarray
            1 inside, 0 on the outline, -1 outside; int8, the shape of `x`.
        """
        keys = self._keys(np.clip(x, self._left, self._left + self._stride - 1), row)
        right_of = np.searchsorted(self._crossings, self._keys(self._left + self._stride, row), "left")
        inside = (right_of - np.searchsorted(self._crossings, keys, "right")) % 2 == 1
        on_outline = self._is_member(self._touching, keys) | self._on_flat_edge(keys)
        return np.where(on_outline, 0, np.where(inside, 1, -1)).astype(np.int8)

    def _keys(self, x: Integers | int, row: NDArray[np.intp]) -> Integers:
        return np.asarray(row * self._stride + (x - self._left), dtype=np.int64)

    def _pairs(
        self, low: Integers, high: Integers, last: NDArray[np.intp]
    ) -> tuple[NDArray[np.intp], Integers, Integers]:
        """Return row, quotient and remainder of x for every edge, in every row from its low end to `last`."""
        first = np.searchsorted(self._rows, low[:, 1], "left")
        count = np.maximum(last - first, 0) * (low[:, 1] != high[:, 1])
        edge = np.repeat(np.arange(len(low)), count)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
        run, rise = (high - low)[edge].T
        quotient, remainder = np.divmod((self._rows[row] - low[edge, 1]) * run, rise)
        return row, low[edge, 0] + quotient, remainder

    def _crossing_keys(self, low: Integers, high: Integers) -> Integers:
        # Half open, [low, high): a vertex between two edges counts once.
        row, x, remainder = self._pairs(low, high, np.searchsorted(self._rows, high[:, 1], "left"))
        # Rounded up: an integer point lies left of the crossing exactly where it is smaller than this.
        return self._keys(x + (remainder > 0), row)

    def _touching_keys(self, low: Integers, high: Integers) -> Integers:
        row, x, remainder = self._pairs(low, high, np.searchsorted(self._rows, high[:, 1], "right"))
        exact = remainder == 0
        return self._keys(x[exact], row[exact])

    def _flat_edges(self, low: Integers, high: Integers) -> tuple[Integers, Integers]:
        """Return the first and last key of each stretch of horizontal outline, merged where they overlap."""
        flat = low[:, 1] == high[:, 1]
        row = np.searchsorted(self._rows, low[flat, 1], "left")
        known = row < len(self._rows)
        known[known] = self._rows[row[known]] == low[flat, 1][known]
        ends = np.stack([low[flat, 0], high[flat, 0]])[:, known]
        first, last = self._keys(ends.min(axis=0), row[known]), self._keys(ends.max(axis=0), row[known])
        order = np.argsort(first, kind="stable")
        return first[order], np.maximum.accumulate(last[order])

    def _on_flat_edge(self, keys: Integers) -> NDArray[np.bool_]:
        if len(self._flat_starts) == 0:
            return np.zeros(keys.shape, dtype=np.bool_)
        before = np.searchsorted(self._flat_starts, keys, "right") - 1
        return np.asarray((before >= 0) & (keys <= self._flat_ends[np.maximum(before, 0)]))

    @staticmethod
    def _is_member(sorted_keys: Integers, keys: Integers) -> NDArray[np.bool_]:
        if len(sorted_keys) == 0:
            return np.zeros(keys.shape, dtype=np.bool_)
        at = np.minimum(np.searchsorted(sorted_keys, keys, "left"), len(sorted_keys) - 1)
        return np.asarray(sorted_keys[at] == keys)


def locate_points(polygon: NDArray[np.integer], points: NDArray[np.integer]) -> NDArray[np.int8]:
    """Tell where points lie: 1 inside the polygon, 0 on its outline, -1 outside.

    Parameters
    ----------
    polygon
        Closed polygon, (n, 2) integers, (x, y).
    points
        (m, 2) integers, (x, y).
    """
    rows, index = np.unique(points[:, 1].astype(np.int64), return_inverse=True)
    return RowCrossings(polygon, rows).locate(points[:, 0].astype(np.int64), index.reshape(-1))
