# SPDX-License-Identifier: Apache-2.0
"""Convert one slide file to DICOM; run by the converter's own interpreter, never imported by the worker.

It reads one JSON object from standard input and writes JSON lines to standard output::

    {"slide": PATH, "out": FOLDER, "mpp": 0.5 or null, "labels": false, "check": false}

    {"event": "opened", "reader": "opentile", "mpp": 0.499, "levels": [[2220, 2967]], "tiles": 130}
    {"event": "progress", "done": 64, "total": 130}
    {"event": "done", "files": [PATH, ...]}
    {"event": "error", "code": "no_mpp", "message": "..."}

With ``check`` the slide is only opened, and nothing is written.
It depends on nothing but the packages of ``converter.txt``.
"""

from __future__ import annotations

import errno
import json
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from opentile.formats.svs.svs_metadata import SvsMetadata  # type: ignore[import-not-found]
from pydicom.uid import JPEG2000
from wsidicom.codec import Jpeg2kSettings, JpegSettings, Subsampling
from wsidicom.geometry import SizeMm
from wsidicom.metadata import Image, Pyramid
from wsidicomizer import WsiDicomizer  # type: ignore[import-not-found]
from wsidicomizer.extras.openslide.openslide_source import (  # type: ignore[import-not-found]
    OpenSlideSource,
)
from wsidicomizer.metadata import WsiDicomizerMetadata  # type: ignore[import-not-found]
from wsidicomizer.sources import OpenTileSource  # type: ignore[import-not-found]

JPEG_QUALITY = 90
TILE_SIZE = 512


class ConversionError(Exception):
    """The conversion cannot be done; ``code`` is one of the ingest's error codes."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def emit(event: str, **fields: Any) -> None:
    """Write one event as a line of JSON."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Convert (or check) what standard input names; 0 when every file was written (or could be)."""
    warnings.simplefilter("ignore")
    job = json.load(sys.stdin)
    try:
        if job["check"]:
            check(Path(job["slide"]), job["mpp"])
        else:
            convert(Path(job["slide"]), Path(job["out"]), job["mpp"], labels=job["labels"])
    except ConversionError as error:
        emit("error", code=error.code, message=str(error))
        return 1
    except OSError as error:
        code = "disk_full" if error.errno in {errno.ENOSPC, errno.EDQUOT} else "converter_failed"
        emit("error", code=code, message=f"{type(error).__name__}: {error}")
        return 1
    except Exception as error:  # noqa: BLE001 - the boundary of this process: the parent gets a sentence
        emit("error", code="converter_failed", message=f"{type(error).__name__}: {error}")
        return 1
    return 0


def convert(slide: Path, out: Path, mpp: float | None, *, labels: bool) -> None:
    """Write the levels of a slide as DICOM instances into a folder."""
    reader, wsi = open_slide(slide, mpp)
    with wsi:
        spacing = require_spacing(slide, wsi)
        images = [instance.image_data for level in wsi.levels for instance in level.instances.values()]
        total = sum(image.tiled_size.area for image in images)
        emit(
            "opened",
            reader=reader,
            mpp=round(spacing.width * 1000, 6),
            levels=[[level.size.width, level.size.height] for level in wsi.levels],
            tiles=total,
        )
        count_tiles(images, total)
        files = wsi.save(
            out, include_labels=labels, include_overviews=labels, include_thumbnails=False, workers=2
        )
    emit("done", files=[str(file) for file in files])


def check(slide: Path, mpp: float | None) -> None:
    """Open a slide as the conversion would."""
    _, wsi = open_slide(slide, mpp)
    with wsi:
        require_spacing(slide, wsi)
    emit("done", files=[])


def require_spacing(slide: Path, wsi: Any) -> Any:
    """Return the spacing of the largest level, in mm."""
    spacing = wsi.levels[0].pixel_spacing
    if spacing is None or spacing.width <= 0:
        raise no_mpp(slide)
    return spacing


def open_slide(slide: Path, mpp: float | None) -> tuple[str, Any]:
    """Open a slide with opentile, which passes compressed tiles through, else with OpenSlide.

    Returns
    -------
    tuple
        Name of the reader and the opened ``WsiDicom``.

    Raises
    ------
    ConversionError
        If neither can, or the file says no resolution and the user neither.
    """
    allow_aperio_without_mpp(mpp)
    metadata = None
    if mpp is not None:
        image = Image(pixel_spacing=SizeMm(mpp / 1000, mpp / 1000))
        metadata = WsiDicomizerMetadata(pyramid=Pyramid(image, []))
    failures = []
    for name, source in (("opentile", OpenTileSource), ("openslide", OpenSlideSource)):
        try:
            if not source.is_supported(slide):
                continue
            wsi = open_with(source, slide, metadata)
            wsi.levels[0].pixel_spacing  # noqa: B018 - reading it is what shows whether the file says it
        except MissingMppError:
            raise no_mpp(slide) from None
        except Exception as error:  # noqa: BLE001 - readers raise anything on odd files; the next may read it
            failures.append(f"{name}: {type(error).__name__}: {error}")
            continue
        if failures:
            emit("notice", message=compressed_anew(failures[0]))
        return name, wsi
    if any("pixel spacing" in failure.lower() or "mpp" in failure.lower() for failure in failures):
        raise no_mpp(slide)
    if failures:
        raise ConversionError("unreadable", f"{slide.name} cannot be read ({'; '.join(failures)}).")
    raise ConversionError(
        "unknown_format",
        f"{slide.name} is of no known slide format: give an SVS, NDPI or tiled TIFF file, or DICOM.",
    )


def compressed_anew(failure: str) -> str:
    """Say why tiles are not passed through as the scanner compressed them."""
    if "turbojpeg" in failure.lower():
        failure = "libturbojpeg is missing; on Debian, apt-get install libturbojpeg0"
    return f"Tiles are compressed anew, with a small loss: the first reader failed ({failure})."


def open_with(source: Any, slide: Path, metadata: Any) -> Any:
    """Open a slide with one reader and with an encoder of the kind that its tiles already have.

    wsidicom 0.31 takes a file's transfer syntax from the encoder even where tiles are passed through: with
    the default encoder JPEG 2000 tiles would be declared as JPEG.
    """

    def opened(encoding: Any) -> Any:
        return WsiDicomizer.open(
            slide, metadata=metadata, tile_size=TILE_SIZE, preferred_source=source, encoding=encoding
        )

    wsi = opened(JpegSettings(quality=JPEG_QUALITY, subsampling=Subsampling.R420))
    if wsi.levels[0].default_instance.image_data.transfer_syntax != JPEG2000:
        return wsi
    wsi.close()
    return opened(Jpeg2kSettings())


class MissingMppError(Exception):
    """The file says no resolution."""


def allow_aperio_without_mpp(mpp: float | None) -> None:
    """Let the user's resolution stand in where an Aperio file says none: opentile 0.22 insists on one."""

    def resolution(self: Any) -> float:
        try:
            return float(self._svs_metadata["MPP"])
        except (KeyError, ValueError):
            if mpp is None:
                raise MissingMppError from None
            return mpp

    SvsMetadata.mpp = property(resolution)


def no_mpp(slide: Path) -> ConversionError:
    """Say how to give the resolution that a file lacks."""
    return ConversionError(
        "no_mpp",
        f"{slide.name} does not say its resolution. Give it in micrometres per pixel of the largest level: "
        "--mpp 0.25 for a 40x scan, --mpp 0.5 for 20x.",
    )


def count_tiles(images: Iterable[Any], total: int) -> None:
    """Report progress whenever tiles are read for writing."""
    lock = threading.Lock()
    done = 0

    def counted(read: Callable[..., Iterable[Any]]) -> Callable[..., Iterator[Any]]:
        def reading(*args: Any, **kwargs: Any) -> Iterator[Any]:
            nonlocal done
            for tile in read(*args, **kwargs):
                with lock:
                    done += 1
                    if done % 64 == 0 or done == total:
                        emit("progress", done=done, total=total)
                yield tile

        return reading

    for image in images:
        image.get_encoded_tiles = counted(image.get_encoded_tiles)
        image.get_decoded_tiles = counted(image.get_decoded_tiles)


if __name__ == "__main__":
    sys.exit(main())
