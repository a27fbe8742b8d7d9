# SPDX-License-Identifier: Apache-2.0
"""Slides with a result as a worker would bring it: overlay, thumbnail, heatmap, patches and provenance."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import cv2
import h5py
import numpy as np
from PIL import Image

from clam_core.heatmap import ScoreMap, paint
from tests.support.fake_worker import MODEL, FakeWorker
from tests.support.heatmap import SPOTS, _thumbnail, heatmap_png
from tests.support.orthanc_server import OrthancServer

WIDTH, HEIGHT, MPP, PATCH_PX = 2220, 2967, 0.499, 256
MOST_PATCHES = 30
CONTAINER = "S26-1042-A1"
BACKGROUND = 225

Places = np.ndarray | np.float32
"""Level-0 pixels along one axis: many, or one."""


def png(picture: Image.Image) -> bytes:
    """Return a picture as a PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def jpeg() -> bytes:
    """Return the picture of a patch."""
    buffer = io.BytesIO()
    Image.new("RGB", (PATCH_PX, PATCH_PX), (200, 120, 170)).save(buffer, "JPEG")
    return buffer.getvalue()


def attention(columns: Places, rows: Places) -> np.ndarray:
    """Return the attention, 0 to 1, at level-0 pixels: `SPOTS`, in steps of a patch."""
    x = (columns // PATCH_PX + 0.5) * PATCH_PX / WIDTH
    y = (rows // PATCH_PX + 0.5) * PATCH_PX / HEIGHT
    spots = [np.exp(-((x - left) ** 2 + (y - top) ** 2) / (radius**2)) for left, top, radius in SPOTS]
    peak: np.ndarray = np.max(spots, axis=0)
    return peak


@lru_cache(maxsize=1)
def tissue() -> np.ndarray:
    """Return where the real slide's thumbnail shows tissue, (height, width) bool."""
    dark = (_thumbnail().mean(axis=2) < BACKGROUND).astype(np.uint8)
    closed: np.ndarray = cv2.morphologyEx(dark, cv2.MORPH_CLOSE, np.ones((15, 15), np.uint8)) > 0
    return closed


def overlay_png() -> bytes:
    """Return overlay.png, painted by the worker's own function."""
    covered = tissue()
    height, width = covered.shape
    downsample = (WIDTH / width, HEIGHT / height)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    values = 100 * attention(columns * downsample[0], rows * downsample[1])
    heights, widths = np.ones(height, dtype=np.int64), np.ones(width, dtype=np.int64)
    return png(paint(ScoreMap(values.astype(np.float32), covered, heights, widths, covered, downsample)))


def thumbnail_png() -> bytes:
    """Return thumbnail.png."""
    return png(Image.fromarray(np.ascontiguousarray(_thumbnail()[:, :, ::-1])))


def top_patches() -> list[dict[str, Any]]:
    """Return the most attended patches that lie on tissue."""
    covered = tissue()
    scale = covered.shape[1] / WIDTH
    found = []
    for y in range(0, HEIGHT - PATCH_PX, PATCH_PX):
        for x in range(0, WIDTH - PATCH_PX, PATCH_PX):
            box = covered[
                int(y * scale) : int((y + PATCH_PX) * scale), int(x * scale) : int((x + PATCH_PX) * scale)
            ]
            if box.mean() > 0.5:
                found.append((float(attention(np.float32(x), np.float32(y))), x, y))
    found.sort(reverse=True)
    return [
        {
            "x": x,
            "y": y,
            "width": PATCH_PX,
            "height": PATCH_PX,
            "attention": round(value / len(found), 6),
            "percentile": round(100 * (1 - rank / len(found)), 2),
        }
        for rank, (value, x, y) in enumerate(found[:MOST_PATCHES])
    ]


def attention_npz() -> bytes:
    """Return attention.npz with the patches of `top_patches`, as the worker writes it."""
    found = top_patches()
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        coords=np.array([(one["x"], one["y"]) for one in found], dtype=np.int64),
        footprint=np.asarray((PATCH_PX, PATCH_PX)),
        attention=np.array([one["attention"] for one in found]),
        percentile=np.array([one["percentile"] for one in found]),
    )
    return buffer.getvalue()


def attention_h5() -> bytes:
    """Return attention.h5 with the same patches."""
    found = top_patches()
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["coords"] = np.array([(one["x"], one["y"]) for one in found], dtype=np.int64)
        file["attention_scores"] = np.array([[one["attention"]] for one in found], dtype=np.float32)
    return buffer.getvalue()


def result_for(request: dict[str, Any], container_id: str, **changes: Any) -> dict[str, Any]:
    """Return a result about the slide of a request."""
    return {
        "predicted_class": "oscc",
        "probabilities": {"normal": 0.0824, "oscc": 0.9176},
        "patches": {"count": 84, "size_px": PATCH_PX, "level_mpp": MPP, "tissue_mm2": 1.37},
        "top_patches": top_patches(),
        "slide": {
            "series_instance_uid": request["series_instance_uid"],
            "container_id": container_id,
            "width": WIDTH,
            "height": HEIGHT,
            "mpp": [MPP, MPP],
            "fingerprint": request["fingerprint"],
        },
        "model": {
            **MODEL,
            "encoder": {"name": "efficientnet-lite0", "sha256": "6" * 64},
            "intended_use": "Shows the whole way on one slide. Not for clinical use.",
            "use": "demonstration",
        },
        "quality": {"status": "ok", "flags": []},
        "timings_s": {"queue": 0.2, "open": 0.31, "tissue": 0.42, "encode": 3.1, "predict": 0.08},
        "software": {"worker": "0.1.0", "torch": "2.13.0", "device": "cpu"},
        **changes,
    }


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "overlay.png": (overlay_png, "image/png"),
    "thumbnail.png": (thumbnail_png, "image/png"),
    "heatmap.png": (heatmap_png, "image/png"),
    "attention.npz": (attention_npz, "application/octet-stream"),
    "attention.h5": (attention_h5, "application/x-hdf5"),
}


def submit(server: OrthancServer, series: str) -> str:
    """Submit a slide as the person; return the request's id."""
    answer = server.post("/pathology/analyze", json={"series": series, "force": True})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["request_id"])


def deliver(
    worker: FakeWorker,
    container_id: str,
    names: tuple[str, ...] = tuple(FILES),
    patch_pictures: int = 0,
    **changes: Any,
) -> None:
    """Bring the files and the result of a claimed request, and pictures of its first patches."""
    sent = [worker.put(name, make(), kind) for name, (make, kind) in FILES.items() if name in names]
    pictures = [f"patch-{number:03}.jpg" for number in range(1, patch_pictures + 1)]
    sent += [worker.put(name, jpeg(), "image/jpeg") for name in pictures]
    worker.complete(result_for(worker.claimed["request"], container_id, **changes), sent)


def analysed(server: OrthancServer, series: str, container_id: str = CONTAINER, **changes: Any) -> str:
    """Submit, claim and complete a slide; return the request's id."""
    request_id = submit(server, series)
    worker = FakeWorker(server)
    worker.claim()
    worker.report("encode", 0.42)
    deliver(worker, container_id, **changes)
    return request_id
