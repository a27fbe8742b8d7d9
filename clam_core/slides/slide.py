# SPDX-License-Identifier: Apache-2.0
"""What a slide is: levels, spacing, identity, and regions of pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Level:
    """One level of a pyramid.

    Parameters
    ----------
    width, height
        Size in the level's own pixels.
    downsample
        Level-0 pixels per pixel of this level, (x, y): the quotient of the dimensions.
    """

    width: int
    height: int
    downsample: tuple[float, float]

    @property
    def pixels(self) -> int:
        """Number of pixels of the level."""
        return self.width * self.height


@dataclass(frozen=True)
class SlideIdentity:
    """By what names a slide is known; everything is optional.

    Parameters
    ----------
    series_instance_uid, study_instance_uid, frame_of_reference_uid
        Of the DICOM series.
    container_id
        What stands on the glass (ContainerIdentifier).
    name
        The file's or the folder's name, for a slide opened by path.
    """

    series_instance_uid: str | None = None
    study_instance_uid: str | None = None
    frame_of_reference_uid: str | None = None
    container_id: str | None = None
    name: str | None = None

    @property
    def label(self) -> str:
        """The name a person would use: container, else file name, else series UID."""
        return self.container_id or self.name or self.series_instance_uid or "unnamed slide"


class Slide(Protocol):
    """A whole-slide image that is open; safe to read from several threads at once."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """The pyramid, level 0 (the largest) first."""
        ...

    @property
    def mpp(self) -> tuple[float, float] | None:
        """Micrometres per pixel of level 0, (x, y), or None where the slide does not say."""
        ...

    @property
    def identity(self) -> SlideIdentity:
        """By what names the slide is known."""
        ...

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Pixels:
        """Read a rectangle.

        Parameters
        ----------
        location
            Top-left corner, (x, y), in level-0 pixels; may lie outside the slide.
        level
            Index into `levels`.
        size
            (width, height) in pixels of `level`.

        Returns
        -------
        numpy.ndarray
            RGB, uint8, (height, width, 3); white outside the slide and where it is transparent.

        Raises
        ------
        SlideError
            If the pixels cannot be read.
        OSError
            If disk or network fail.
        """
        ...

    def close(self) -> None:
        """Release files and connections."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


@runtime_checkable
class Prefetching(Protocol):
    """A slide that lies elsewhere: whoever is about to read many places says so first."""

    def prefetch(self, level: int, locations: Iterable[tuple[int, int]], size: tuple[int, int]) -> None:
        """Fetch what `read_region` will need at these places, in few exchanges.

        Parameters
        ----------
        level
            Index into `levels`.
        locations
            Top-left corners, (x, y), in level-0 pixels.
        size
            (width, height) in pixels of `level`.

        Raises
        ------
        SlideError
            If the pixels cannot be had.
        """
        ...


@runtime_checkable
class Sparse(Protocol):
    """A slide that may lack tiles: `read_region` shows such places as empty glass."""

    def is_stored(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> bool:
        """Tell whether any tile under a rectangle is stored; its parameters are those of `read_region`."""
        ...


def pyramid(sizes: Sequence[tuple[int, int]]) -> tuple[Level, ...]:
    """Return the levels of the given (width, height), whose first is level 0."""
    width0, height0 = sizes[0]
    return tuple(Level(width, height, (width0 / width, height0 / height)) for width, height in sizes)


SQUARE = 1.1
"""Sides of a pixel that differ by more were not measured: scanners step and look equally far both ways."""


def is_square(mpp: tuple[float, float]) -> bool:
    """Tell whether pixels of given micrometres, (x, y), are about as wide as they are high."""
    return max(mpp) <= SQUARE * min(mpp)


def container_name(identifier: str | None) -> str | None:
    """Return the container's identifier, or None where it only fills the tag (which must not be empty)."""
    return None if identifier is None or identifier in {"", "Unknown", "UNKNOWN"} else identifier


def best_level_for_downsample(levels: Sequence[Level], target: float) -> int:
    """Return the smallest picture that is not smaller than 1/target of level 0.

    As OpenSlide does, a level's downsample is the mean over both axes: one of 64.13 is not chosen for 64.
    """
    fitting = [index for index, level in enumerate(levels) if sum(level.downsample) / 2 <= target]
    return max(fitting, key=lambda index: sum(levels[index].downsample), default=0)
