# SPDX-License-Identifier: Apache-2.0
"""Coordinates in the h5 layout of the reference CLAM, which TRIDENT reads too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np

from clam_core.errors import ParameterError
from clam_core.patches.grid import Coordinates
from clam_core.slides import Level


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
        Side in pixels of `patch_level`.
    patch_level
        Level the patches are read from.
    attributes
        Everything else the writer noted beside the coordinates.
    """

    name: str
    coordinates: Coordinates
    patch_size: int
    patch_level: int
    attributes: Mapping[str, Any]


def write_patches(
    path: Path, coordinates: Coordinates, *, patch_size: int, patch_level: int, level: Level
) -> Path | None:
    """Write coordinates; without any, no file is written, as in the reference.

    Parameters
    ----------
    path
        The file; its stem names the slide.
    coordinates
        Top-left corners, (N, 2), level-0 pixels.
    patch_size
        Side in pixels of the patch level.
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
                "patch_size": patch_size,
                "patch_level": patch_level,
                "downsample": np.asarray(level.downsample, dtype=np.float64),
                "downsampled_level_dim": np.asarray((level.width, level.height), dtype=np.int64),
                "level_dim": np.asarray((level.width, level.height), dtype=np.int64),
                "name": path.stem,
                "save_path": str(path.parent),
            }
        )
    return path


def read_patches(path: Path) -> PatchFile:
    """Read coordinates that we, CLAM or TRIDENT wrote.

    Raises
    ------
    ParameterError
        If the file is missing or is no such file.
    """
    try:
        with h5py.File(path, "r") as file:
            dataset = file["coords"]
            attributes = dict(dataset.attrs)
            coordinates = np.asarray(dataset[:], dtype=np.int64).reshape(-1, 2)
    except (OSError, KeyError, ValueError) as error:
        raise ParameterError(f"{path.name} is not an h5 file of patch coordinates ({error}).") from error
    return PatchFile(
        path.name,
        coordinates,
        int(attributes.get("patch_size", 0)),
        int(attributes.get("patch_level", 0)),
        MappingProxyType(attributes),
    )
