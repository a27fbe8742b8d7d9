# SPDX-License-Identifier: Apache-2.0
"""Coordinates in the h5 layout of the reference CLAM, which TRIDENT reads too."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from clam_core.errors import ParameterError
from clam_core.patches.grid import Coordinates
from clam_core.slides import Level

_HEIGHT = "patch_height"


@dataclass(frozen=True)
class PatchFile:
    """What an interchange file holds.

    Parameters
    ----------
    name
        The file's.
    coordinates
        Top-left corners, (N, 2) int64, level-0 pixels.
    patch_size
        Side in pixels of `patch_level`; None where the writer did not note it.
    patch_level
        Level the patches are read from; None where the writer did not note it.
    downsample
        Of that level, (x, y), as the writer saw it; None where it did not note it.
    level_size
        (width, height) of that level, as the writer saw it; None where it did not note it.
    patch_height
        Where patches are not as high as they are wide, on pixels that are not square; only we note it.
    """

    name: str
    coordinates: Coordinates
    patch_size: int | None
    patch_level: int | None
    downsample: tuple[float, float] | None
    level_size: tuple[float, float] | None = None
    patch_height: int | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the coordinates and of how they are read, in hexadecimal digits."""
        how = f"{self.patch_level} {self.patch_size} {self.downsample}"
        if self.patch_height is not None:
            how += f" {self.patch_height}"
        return hashlib.sha256(how.encode() + self.coordinates.tobytes()).hexdigest()


def write_patches(
    path: Path, coordinates: Coordinates, *, patch_size: tuple[int, int], patch_level: int, level: Level
) -> Path | None:
    """Write coordinates; without any, no file is written, as in the reference.

    Parameters
    ----------
    path
        The file; its stem names the slide.
    coordinates
        Top-left corners, (N, 2), level-0 pixels.
    patch_size
        (width, height) in pixels of the patch level; the layout knows squares, a height of its own is noted
        beside it.
    patch_level, level
        The level the patches are read from.

    Returns
    -------
    pathlib.Path or None
        The file, or None where there was nothing to write.
    """
    if len(coordinates) == 0:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = np.asarray(coordinates, dtype=np.int64)
        dataset = file.create_dataset("coords", data=data, maxshape=(None, 2), chunks=(1, 2))
        dataset.attrs.update(
            {
                "patch_size": patch_size[0],
                "patch_level": patch_level,
                "downsample": np.asarray(level.downsample, dtype=np.float64),
                "downsampled_level_dim": np.asarray((level.width, level.height), dtype=np.int64),
                "level_dim": np.asarray((level.width, level.height), dtype=np.int64),
                "name": path.stem,
                "save_path": str(path.parent),
            }
        )
        if patch_size[1] != patch_size[0]:
            dataset.attrs[_HEIGHT] = patch_size[1]
    return path


def read_patches(path: Path) -> PatchFile:
    """Read coordinates that we, CLAM or TRIDENT wrote.

    Raises
    ------
    ParameterError
        If the file is missing or is no such file.
    """
    if not path.is_file():
        raise ParameterError(f"There is no file of patches at {path}; check the path.")
    try:
        with h5py.File(path, "r") as file:
            dataset = file["coords"]
            return PatchFile(
                path.name,
                np.asarray(dataset[:], dtype=np.int64).reshape(-1, 2),
                _noted(dataset.attrs, "patch_size"),
                _noted(dataset.attrs, "patch_level"),
                _pair(dataset.attrs, "downsample"),
                _pair(dataset.attrs, "level_dim"),
                _noted(dataset.attrs, _HEIGHT),
            )
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ParameterError(f"{path.name} is not an h5 file of patch coordinates ({error}).") from error


def _noted(attributes: Mapping[str, Any], name: str) -> int | None:
    return int(attributes[name]) if name in attributes else None


def _pair(attributes: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    if name not in attributes:
        return None
    x, y = (float(value) for value in attributes[name])
    return x, y
