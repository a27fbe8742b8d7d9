# SPDX-License-Identifier: AGPL-3.0-or-later
"""A result's patches for other programs: GeoJSON as QuPath imports it, and CSV."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

from .attention_file import Patches

_COLUMNS = ("x", "y", "width", "height", "attention", "percentile")
_ANNOTATION_CLASS = {"name": "AI attention", "color": [0, 229, 255]}
_END_OF_LINE = "\r\n"  # RFC 4180
_LARGEST = 2**53  # what a JSON number holds exactly everywhere

Size = Optional[tuple[float, float]]
"""Width and height of the slide in level-0 pixels, or None where the result does not say."""

_Box = tuple[float, float, float, float]
"""Left, top, right and bottom in level-0 pixels."""


def csv(patches: Patches, slide_size: Size) -> str:
    """Return every patch as a line (RFC 4180), in the order in which the worker laid them.

    Parameters
    ----------
    patches
        Of the result.
    slide_size
        Patches over the slide's edge are cut off there.
    """
    lines = [",".join(_COLUMNS)]
    for (left, top, right, bottom), attention, percentile in _boxes(patches, slide_size):
        box = f"{left:.15g},{top:.15g},{right - left:.15g},{bottom - top:.15g}"
        lines.append(f"{box},{attention:.6g},{percentile:.6g}")
    return _END_OF_LINE.join([*lines, ""])


def geojson(patches: Patches, slide_size: Size, top_patches: Sequence[Any], marks: Mapping[str, str]) -> str:
    """Return the patches as a feature collection of QuPath's objects.

    Every patch is a ``tile`` with its attention as measurements (for QuPath's measurement maps); the most
    attended ones lie over them once more as named ``annotation`` objects, which a person sees and jumps to.

    Parameters
    ----------
    patches, slide_size
        As for `csv`.
    top_patches
        The result's own list; what is no patch in it is passed over.
    marks
        What the annotations say of where they come from (QuPath's metadata).
    """
    features = [*_annotations(slide_size, top_patches, marks), *_tiles(patches, slide_size)]
    return '{"type":"FeatureCollection","features":[\n' + ",\n".join(features) + "\n]}\n"


def _annotations(slide_size: Size, top_patches: Sequence[Any], marks: Mapping[str, str]) -> Iterator[str]:
    for rank, patch in enumerate(top_patches, 1):
        if not (
            isinstance(patch, Mapping) and all(_number(patch.get(name)) is not None for name in _COLUMNS)
        ):
            continue
        left, top = patch["x"], patch["y"]
        box = _within((left, top, left + patch["width"], top + patch["height"]), slide_size)
        properties = {
            "objectType": "annotation",
            "name": f"Patch {rank}",
            "classification": _ANNOTATION_CLASS,
            "measurements": {"Attention": patch["attention"], "Attention percentile": patch["percentile"]},
            "metadata": dict(marks),
        }
        yield _feature(box, json.dumps(properties))


def _tiles(patches: Patches, slide_size: Size) -> Iterator[str]:
    for box, attention, percentile in _boxes(patches, slide_size):
        measured = f'"Attention":{attention:.6g},"Attention percentile":{percentile:.6g}'
        yield _feature(box, f'{{"objectType":"tile","measurements":{{{measured}}}}}')


def _feature(box: _Box, properties: str) -> str:
    left, top, right, bottom = (f"{side:.15g}" for side in box)
    ring = f"[[{left},{top}],[{right},{top}],[{right},{bottom}],[{left},{bottom}],[{left},{top}]]"
    geometry = f'{{"type":"Polygon","coordinates":[{ring}]}}'
    return f'{{"type":"Feature","geometry":{geometry},"properties":{properties}}}'


def _boxes(patches: Patches, slide_size: Size) -> Iterator[tuple[_Box, float, float]]:
    corners = zip(patches.corners[::2], patches.corners[1::2])
    for (x, y), attention, percentile in zip(corners, patches.attention, patches.percentile):
        box = _within((x, y, x + patches.width, y + patches.height), slide_size)
        yield box, attention, percentile


def _within(box: _Box, slide_size: Size) -> _Box:
    """Return the part of a box that lies on the slide."""
    left, top, right, bottom = box
    width, height = slide_size or (right, bottom)
    return max(0, left), max(0, top), min(width, right), min(height, bottom)


def size_of(slide: Any) -> Size:
    """Return the slide's size out of a result's ``slide``, which a worker wrote."""
    if not isinstance(slide, Mapping):
        return None
    width, height = _number(slide.get("width")), _number(slide.get("height"))
    return None if width is None or height is None else (width, height)


def _number(value: Any) -> float | None:
    """Return a value that is a number of pixels, a share or a percentile, else None."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and abs(value) <= _LARGEST else None
