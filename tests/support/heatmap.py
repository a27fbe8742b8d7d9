# SPDX-License-Identifier: Apache-2.0
"""A picture like the worker's heatmap: the real slide's thumbnail under an attention map."""

from __future__ import annotations

import cv2
import numpy as np
import pydicom

from tests.support.shared_data import shared_path

SPOTS = ((0.35, 0.30, 0.16), (0.62, 0.66, 0.22), (0.30, 0.75, 0.10))
"""Centre (x, y) and radius of what is attended, as shares of the picture."""


def heatmap_png() -> bytes:
    """Return a PNG."""
    tissue = _thumbnail()
    height, width = tissue.shape[:2]
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    attention = np.zeros((height, width), np.float32)
    for x, y, radius in SPOTS:
        distance = (columns / width - x) ** 2 + (rows / height - y) ** 2
        attention = np.maximum(attention, np.exp(-distance / radius**2))
    colours = cv2.applyColorMap((255 * attention).astype(np.uint8), cv2.COLORMAP_JET)
    encoded, png = cv2.imencode(".png", cv2.addWeighted(tissue, 0.6, colours, 0.4, 0))
    assert encoded
    return png.tobytes()


def _thumbnail() -> np.ndarray:
    folder = shared_path("slides/dicom-cmu-1-small-region")
    datasets = (pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm")))
    thumbnail = next(dataset for dataset in datasets if "THUMBNAIL" in dataset.ImageType)
    frame = next(pydicom.encaps.generate_frames(thumbnail.PixelData, number_of_frames=1))
    picture = cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture
