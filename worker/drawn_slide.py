# SPDX-License-Identifier: Apache-2.0
"""A picture in the colours of an H&E slide, drawn by arithmetic, for where no real slide can be had.

It is the same to the last bit every time. It shows islands of stroma with scattered nuclei and ducts lined by
nuclei: enough for every step to have something to do, and nothing that a pathologist would take for tissue.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from clam_core.slides import Pixels

WIDTH, HEIGHT = 5120, 4096
MPP = 0.5
TILE = 256
_SEED = 20260101
_JPEG_QUALITY = 85
_GLASS = (243, 241, 245)
_STROMA = np.array([228, 158, 196], np.float32)
_NUCLEUS = (96, 62, 138)
_ISLANDS = (((1500, 1400), (1150, 900)), ((3700, 1500), (900, 1050)), ((2600, 3200), (1500, 600)))
"""Centre and half axes of each island, in pixels."""
_DUCTS = 60
_NUCLEI = 26_000


def draw() -> Pixels:
    """Draw the picture.

    Returns
    -------
    numpy.ndarray
        RGB, uint8, (4096, 5120, 3).
    """
    rng = np.random.Generator(np.random.PCG64(_SEED))
    tissue = _tissue(rng)
    picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    picture[:] = _GLASS
    fibres = 0.5 * _smooth_noise(rng, 400) + 0.3 * _smooth_noise(rng, 60) + 0.2 * _smooth_noise(rng, 9)
    stroma = _STROMA + fibres[..., None] * np.array([26, 52, 30], np.float32)
    picture[tissue] = np.clip(stroma[tissue], 0, 255).astype(np.uint8)
    _draw_ducts(picture, tissue, rng)
    _draw_nuclei(picture, tissue, rng)
    return np.asarray(cv2.GaussianBlur(picture, (3, 3), 0.7), np.uint8)


def _smooth_noise(rng: np.random.Generator, scale: int) -> NDArray[np.float32]:
    """Return noise in [-1, 1] whose features are about `scale` pixels wide, (HEIGHT, WIDTH)."""
    coarse = rng.uniform(-1, 1, (HEIGHT // scale + 2, WIDTH // scale + 2)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), np.float32)


def _tissue(rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return where tissue is: ellipses with ragged borders, (HEIGHT, WIDTH)."""
    ragged = 0.25 * _smooth_noise(rng, 300) + 0.08 * _smooth_noise(rng, 50)
    y, x = np.ogrid[:HEIGHT, :WIDTH]
    inside = np.zeros((HEIGHT, WIDTH), bool)
    for (centre_x, centre_y), (half_width, half_height) in _ISLANDS:
        distance = ((x - centre_x) / half_width) ** 2 + ((y - centre_y) / half_height) ** 2
        inside |= distance + ragged < 1
    return inside


def _points(rng: np.random.Generator, count: int, tissue: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return those of `count` random points, (n, 2) as (x, y), that lie on tissue."""
    points = rng.integers((0, 0), (WIDTH, HEIGHT), (count, 2))
    return np.asarray(points[tissue[points[:, 1], points[:, 0]]], np.int64)


def _draw_ducts(picture: Pixels, tissue: NDArray[np.bool_], rng: np.random.Generator) -> None:
    for x, y in _points(rng, _DUCTS, tissue):
        radius = int(rng.integers(40, 110))
        cv2.circle(picture, (int(x), int(y)), radius, (206, 150, 196), -1)
        cv2.circle(picture, (int(x), int(y)), radius // 2, (244, 238, 244), -1)
        for angle in np.linspace(0, 2 * np.pi, radius // 3, endpoint=False):
            along = radius * float(rng.uniform(0.72, 0.9))
            _nucleus(picture, (x + along * np.cos(angle), y + along * np.sin(angle)), rng)


def _draw_nuclei(picture: Pixels, tissue: NDArray[np.bool_], rng: np.random.Generator) -> None:
    for x, y in _points(rng, _NUCLEI, tissue):
        _nucleus(picture, (float(x), float(y)), rng)


def _nucleus(picture: Pixels, centre: tuple[float, float], rng: np.random.Generator) -> None:
    shade = int(rng.integers(-22, 22))
    colour = tuple(channel + shade for channel in _NUCLEUS)
    axes = (int(rng.integers(5, 10)), int(rng.integers(4, 7)))
    place = (round(centre[0]), round(centre[1]))
    cv2.ellipse(picture, place, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)


def write_drawn_slide(path: Path) -> None:
    """Draw the slide and write it as a tiled TIFF, JPEG in YCbCr, with its resolution.

    Parameters
    ----------
    path
        The file.
    """
    write_tiled_tiff(path, draw(), MPP)


def write_tiled_tiff(path: Path, picture: Pixels, mpp: float) -> None:
    """Write a picture as a single-level tiled TIFF (TIFF 6.0 with its technical note 2 on JPEG).

    Parameters
    ----------
    path
        The file.
    picture
        RGB, uint8, (height, width, 3).
    mpp
        Micrometres per pixel.
    """
    height, width = picture.shape[:2]
    tiles = list(_jpeg_tiles(picture))
    offsets, position = [], 8
    for tile in tiles:
        offsets.append(position)
        position += len(tile) + len(tile) % 2
    per_cm = round(10_000 / mpp * 1000)
    description = b"Drawn by arithmetic, no real tissue\0"
    entries: list[tuple[int, int, bytes]] = [
        (256, 4, _longs([width])),
        (257, 4, _longs([height])),
        (258, 3, _shorts([8, 8, 8])),
        (259, 3, _shorts([7])),  # JPEG
        (262, 3, _shorts([6])),  # YCbCr
        (270, 2, description),
        (277, 3, _shorts([3])),
        (282, 5, _longs([per_cm, 1000])),
        (283, 5, _longs([per_cm, 1000])),
        (284, 3, _shorts([1])),
        (296, 3, _shorts([3])),  # per centimetre
        (322, 4, _longs([TILE])),
        (323, 4, _longs([TILE])),
        (324, 4, _longs(offsets)),
        (325, 4, _longs([len(tile) for tile in tiles])),
        (530, 3, _shorts([2, 2])),
    ]
    with path.open("wb") as file:
        file.write(struct.pack("<2sHI", b"II", 42, position))
        for tile in tiles:
            file.write(tile + b"\0" * (len(tile) % 2))
        file.write(_directory(entries, position))


def _jpeg_tiles(picture: Pixels) -> Iterable[bytes]:
    height, width = picture.shape[:2]
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            part = picture[top : top + TILE, left : left + TILE]
            below, right = TILE - part.shape[0], TILE - part.shape[1]
            tile = cv2.copyMakeBorder(part, 0, below, 0, right, cv2.BORDER_REPLICATE)
            done, data = cv2.imencode(".jpg", tile[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
            if not done:
                raise ValueError("OpenCV cannot write JPEG")
            yield data.tobytes()


def _shorts(values: Iterable[int]) -> bytes:
    return b"".join(struct.pack("<H", value) for value in values)


def _longs(values: Iterable[int]) -> bytes:
    return b"".join(struct.pack("<I", value) for value in values)


_SIZES = {2: 1, 3: 2, 4: 4, 5: 8}
"""Bytes of a value of each TIFF type: ASCII, SHORT, LONG, RATIONAL."""


def _directory(entries: Iterable[tuple[int, int, bytes]], position: int) -> bytes:
    """Lay out an image file directory at a position; values that do not fit into it follow."""
    listed = list(entries)
    table = struct.pack("<H", len(listed))
    extra = b""
    extra_position = position + 2 + 12 * len(listed) + 4
    for tag, kind, value in listed:
        table += struct.pack("<HHI", tag, kind, len(value) // _SIZES[kind])
        if len(value) <= 4:
            table += value.ljust(4, b"\0")
        else:
            table += struct.pack("<I", extra_position + len(extra))
            extra += value + b"\0" * (len(value) % 2)
    return table + struct.pack("<I", 0) + extra
