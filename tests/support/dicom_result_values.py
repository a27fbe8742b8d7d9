# SPDX-License-Identifier: Apache-2.0
"""Results, attention and requests to write as DICOM, as the worker has them at the end of an analysis."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np

from worker.dicom_results import Attention, DicomResults, Run
from worker.result_kinds import ResultKind

RUN = Run(
    request_id="6f1c0a5e5b0d4f0e8a3c9d2f7b1e4a60",
    created=dt.datetime(2026, 11, 22, 16, 54, 3, tzinfo=dt.UTC),
)


def grid_attention(size: tuple[int, int], patch: int) -> Attention:
    """Return patches laid edge to edge over a slide of (width, height), ranked by a fixed shuffle."""
    coordinates = np.array(
        [(x, y) for y in range(0, size[1] - patch + 1, patch) for x in range(0, size[0] - patch + 1, patch)]
    )
    ranks = np.random.default_rng(7).permutation(len(coordinates))
    return Attention(coordinates, (patch, patch), 100 * ranks / max(1, len(coordinates) - 1))


def a_result(size: tuple[int, int], attention: Attention, *, top: int = 5, **changes: Any) -> dict[str, Any]:
    """Return a result in the contract's shape; `changes` replace whole members."""
    best = np.argsort(attention.percentiles)[::-1][:top]
    width, height = attention.patch_size
    result = {
        "predicted_class": "oscc",
        "probabilities": {"normal": 0.08, "oscc": 0.92},
        "patches": {"count": len(attention.coordinates), "size_px": 256, "level_mpp": 0.5},
        "top_patches": [
            {
                "x": int(attention.coordinates[index][0]),
                "y": int(attention.coordinates[index][1]),
                "width": int(width),
                "height": int(height),
                "attention": 0.0041,
                "percentile": float(attention.percentiles[index]),
            }
            for index in best
        ],
        "slide": {"width": size[0], "height": size[1]},
        "model": {
            "name": "oral-scc-demo",
            "version": "1",
            "sha256": "a" * 64,
            "encoder": {"name": "efficientnet-lite0", "sha256": "b" * 64},
            "intended_use": "Shows that the whole way works.",
            "use": "demonstration",
        },
        "quality": {"status": "ok", "flags": []},
        "software": {"worker": "0.1.0"},
    }
    return {**result, **changes}


def content_of(results: DicomResults, kind: ResultKind) -> bytes:
    """Return the file of one kind."""
    assert not results.skipped, results.skipped
    return next(artifact.content for artifact in results.artifacts if artifact.kind is kind)
