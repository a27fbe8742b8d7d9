# SPDX-License-Identifier: Apache-2.0
"""What every source of slides must hold to, whatever the server behind it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from wsidicom import WsiDicom

from clam_core.slides import OPENING, Slide, WsiDicomSlide
from tests.support.shared_data import shared_path
from worker.settings import Settings
from worker.settings_reading import load_settings

ODD_SLIDES = (
    "slides/dicom-misc/camelyon_thumb_jpeg2000_tiledfull.dcm",
    "slides/dicom-misc/hd_sm_image_uncompressed.dcm",
    "slides/dicom-misc/hd_sm_image_jpegls.dcm",
)
"""JPEG 2000, uncompressed and JPEG-LS; the real slide beside them is JPEG."""


def levels_of(folder: Path) -> list[Path]:
    """Return the files of a folder that hold VOLUME images."""
    return [path for path in sorted(folder.glob("*.dcm")) if "VOLUME" in _image_type(path)]


def _image_type(path: Path) -> list[str]:
    return list(pydicom.dcmread(path, specific_tags=["ImageType"], stop_before_pixels=True).ImageType)


def real_slide() -> list[Path]:
    """Return the VOLUME of the real slide."""
    return levels_of(shared_path("slides/dicom-cmu-1-small-region"))


def settings_for(url: str, user: tuple[str, str] = ("worker", "secret"), **more: str) -> Settings:
    """Return a worker's settings for a server."""
    return load_settings({"ORTHANC_URL": url, "ORTHANC_USER": user[0], "ORTHANC_PASSWORD": user[1], **more})


def assert_same_tiles(slide: Slide, files: list[Path]) -> None:
    """Compare every tile of every level with wsidicom on the same local files."""
    with (
        WsiDicom.open(files, settings=OPENING) as local,
        WsiDicomSlide(WsiDicom.open(files, settings=OPENING)) as reference,
    ):
        assert slide.levels == reference.levels
        assert slide.mpp == reference.mpp
        assert slide.identity.series_instance_uid == reference.identity.series_instance_uid
        for index, level in enumerate(local.pyramids[0]):
            tile = level.tile_size
            for top in range(0, level.size.height, tile.height):
                for left in range(0, level.size.width, tile.width):
                    size = (
                        min(tile.width, level.size.width - left),
                        min(tile.height, level.size.height - top),
                    )
                    x, y = slide.levels[index].downsample
                    location = (round(left * x), round(top * y))
                    np.testing.assert_array_equal(
                        slide.read_region(location, index, size),
                        local.read_region((left, top), level.level, size, as_array=True),
                    )
