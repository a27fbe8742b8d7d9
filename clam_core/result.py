# SPDX-License-Identifier: Apache-2.0
"""What an analysis found, and how it is written down."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clam_core.model import Model
from clam_core.models import SlidePrediction
from clam_core.options import AnalysisOptions
from clam_core.patches import Coordinates, PatchPlan
from clam_core.quality import Quality
from clam_core.slides import Pixels, SlideIdentity

PNG_LEVEL = 3
"""Of zlib: half the time of its default, for pictures of tissue that are 7 % larger. Level 4 looks for
repeats in another way: overlays of plain squares become three times as large, in three times the time."""
HEATMAP, OVERLAY, THUMBNAIL = "heatmap.png", "overlay.png", "thumbnail.png"
ATTENTION, SCORES = "attention.npz", "attention.h5"
_PATCH_NAME = re.compile(r"patch-\d{3,}\.jpg")


@dataclass(frozen=True)
class SlideSummary:
    """The slide that was analysed.

    Parameters
    ----------
    identity
        By what names it is known.
    width, height
        Size of level 0.
    mpp
        Micrometres per pixel of level 0, (x, y), as used; None where nobody says.
    """

    identity: SlideIdentity
    width: int
    height: int
    mpp: tuple[float, float] | None


@dataclass(frozen=True)
class TopPatch:
    """One of the most attended patches.

    Parameters
    ----------
    x, y, width, height
        In level-0 pixels.
    attention
        Its share of the attention, 0 to 1, or the patch's own probability for models without attention.
    percentile
        Rank of the attention among all patches, 0 to 100.
    picture
        As the encoder saw it, RGB, (side, side, 3); None beyond the first few.
    """

    x: int
    y: int
    width: int
    height: int
    attention: float
    percentile: float
    picture: Pixels | None = None


@dataclass(frozen=True)
class FineScores:
    """Overlapping patches of the heatmap.

    Parameters
    ----------
    coordinates
        Top-left corners, (M, 2), level-0 pixels.
    percentiles
        Rank of each among the patches of the prediction, (M,), 0 to 100.
    """

    coordinates: Coordinates
    percentiles: NDArray[np.float64]


@dataclass(frozen=True)
class Analysis:
    """Everything an analysis found.

    Parameters
    ----------
    slide, model, options
        What was analysed, by which model, and how.
    fingerprint
        Names the content of the slide; None where the caller does not.
    encoder_name, encoder_sha256
        The encoder whose weights were really used.
    plan
        From which level patches were read.
    coordinates
        Top-left corners of the patches of the prediction, (N, 2) int64, level-0 pixels.
    features
        Of these patches, (N, D) float32.
    prediction
        What the model says.
    attention
        Share of each patch in the prediction, (N,).
    percentiles
        Ranks of the attention, (N,), 0 to 100.
    fine
        Overlapping patches of the heatmap, if any were asked for.
    quality
        Whether the model may answer for this slide.
    flags
        What the reader should know, from the model and from the reading of the slide.
    tissue_mm2
        Tissue on the slide; None where the spacing is unknown.
    top_patches
        The most attended patches, most first.
    heatmap
        For a person to read, RGB.
    overlay
        For a viewer to lay over the slide, transparent where nothing was scored.
    thumbnail
        The slide, RGB, (height, width, 3).
    timings
        Seconds per stage.
    software
        Versions and device.
    """

    slide: SlideSummary
    fingerprint: str | None
    model: Model
    encoder_name: str
    encoder_sha256: str
    options: AnalysisOptions
    plan: PatchPlan
    coordinates: Coordinates
    features: NDArray[np.float32]
    prediction: SlidePrediction
    attention: NDArray[np.float64]
    percentiles: NDArray[np.float64]
    fine: FineScores | None
    quality: Quality
    flags: tuple[str, ...]
    tissue_mm2: float | None
    top_patches: tuple[TopPatch, ...]
    heatmap: Image.Image
    overlay: Image.Image
    thumbnail: Pixels
    timings: Mapping[str, float]
    software: Mapping[str, str]

    @property
    def predicted_class(self) -> str:
        """Name of the most probable class."""
        return self.model.classes[self.prediction.predicted]

    def to_result(self) -> dict[str, Any]:
        """Return the result as JSON; a worker adds queue, publication and DICOM objects."""
        return {
            "predicted_class": self.predicted_class,
            "probabilities": {
                name: round(float(value), 6)
                for name, value in zip(self.model.classes, self.prediction.probabilities, strict=True)
            },
            "patches": {
                "count": len(self.coordinates),
                "size_px": self.plan.patch_px,
                "level_mpp": None if self.plan.mpp is None else round(self.plan.mpp, 4),
                "tissue_mm2": None if self.tissue_mm2 is None else round(self.tissue_mm2, 3),
            },
            "top_patches": [_top_patch(patch) for patch in self.top_patches],
            "slide": _slide(self.slide) | {"fingerprint": self.fingerprint},
            "model": self._model(),
            "quality": {
                "status": self.quality.status,
                "flags": list(self.flags),
                "reason": self.quality.reason,
            },
            "artifacts": [name for name, _ in self.artifact_names()],
            "timings_s": {stage: round(seconds, 3) for stage, seconds in self.timings.items()},
            "parameters": self.options.as_parameters(),
            "software": dict(self.software),
        }

    def artifact_names(self) -> list[tuple[str, str]]:
        """Return name and content type of every artifact."""
        pictured = [patch for patch in self.top_patches if patch.picture is not None]
        return [
            (HEATMAP, "image/png"),
            (OVERLAY, "image/png"),
            (THUMBNAIL, "image/png"),
            (ATTENTION, "application/octet-stream"),
            (SCORES, "application/x-hdf5"),
            *((f"patch-{number:03}.jpg", "image/jpeg") for number in range(1, len(pictured) + 1)),
        ]

    def artifacts(self) -> dict[str, bytes]:
        """Return the bytes of the artifacts by name: pictures of the slide, attention, the top patches."""
        patches = [patch.picture for patch in self.top_patches if patch.picture is not None]
        with ThreadPoolExecutor() as pool:  # Pillow lets other threads run while it compresses.
            pictures = pool.map(_png, (self.heatmap, self.overlay, Image.fromarray(self.thumbnail)))
            arrays = [self._attention_npz(), self._scores_h5()]
            made = [*pictures, *arrays, *(_jpeg(picture) for picture in patches)]
        return {name: data for (name, _), data in zip(self.artifact_names(), made, strict=True)}

    def save(self, folder: Path) -> list[Path]:
        """Write ``result.json`` and all artifacts into a folder, which is made if need be.

        They take the place of an earlier result's there; of that no picture stays beside those of this one.
        A picture that the earlier result does not list is somebody's own, and stays.
        """
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_result(), indent=1, ensure_ascii=False, allow_nan=False)
        contents = {"result.json": text.encode(), **self.artifacts()}
        for name in _patches_of_result_in(folder) - contents.keys():
            (folder / name).unlink(missing_ok=True)
        for name, data in contents.items():
            (folder / name).write_bytes(data)
        return [folder / name for name in contents]

    def _model(self) -> dict[str, Any]:
        return {
            "name": self.model.name,
            "version": self.model.version,
            "sha256": self.model.sha256,
            "encoder": {"name": self.encoder_name, "sha256": self.encoder_sha256},
            "intended_use": self.model.intended_use,
            "use": self.model.use,
        }

    def _attention_npz(self) -> bytes:
        arrays: dict[str, Any] = {
            "coords": self.coordinates,
            "footprint": np.asarray(self.plan.footprint),
            "attention_raw": self.prediction.attention_raw,
            "attention": self.attention,
            "percentile": self.percentiles,
        }
        if self.fine is not None:
            arrays |= {"fine_coords": self.fine.coordinates, "fine_percentile": self.fine.percentiles}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()

    def _scores_h5(self) -> bytes:
        """Return the raw attention in the layout in which CLAM keeps its scores, for tools that read that."""
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            scores = self.prediction.attention.astype(np.float32)
            file.create_dataset("attention_scores", data=scores[:, None], compression="gzip")
            coords = file.create_dataset("coords", data=self.coordinates.astype(np.int64), compression="gzip")
            coords.attrs["patch_size"] = self.plan.read_px[0]
            coords.attrs["patch_level"] = self.plan.level
            coords.attrs["patch_size_level0"] = self.plan.footprint[0]
            coords.attrs["level0_width"] = self.slide.width
            coords.attrs["level0_height"] = self.slide.height
        return buffer.getvalue()


def _patches_of_result_in(folder: Path) -> set[str]:
    """Return the names of the pictures of patches that a result in a folder lists; none without a result."""
    try:
        listed = json.loads((folder / "result.json").read_bytes())["artifacts"]
        return {name for name in listed if _PATCH_NAME.fullmatch(name)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _top_patch(patch: TopPatch) -> dict[str, Any]:
    return {
        "x": patch.x,
        "y": patch.y,
        "width": patch.width,
        "height": patch.height,
        "attention": float(f"{patch.attention:.6g}"),
        "percentile": round(patch.percentile, 2),
    }


def _slide(slide: SlideSummary) -> dict[str, Any]:
    return {
        "series_instance_uid": slide.identity.series_instance_uid,
        "study_instance_uid": slide.identity.study_instance_uid,
        "frame_of_reference_uid": slide.identity.frame_of_reference_uid,
        "container_id": slide.identity.container_id,
        "name": slide.identity.name,
        "width": slide.width,
        "height": slide.height,
        "mpp": None if slide.mpp is None else list(slide.mpp),
    }


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()


def _jpeg(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()
