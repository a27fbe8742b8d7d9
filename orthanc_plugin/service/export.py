# SPDX-License-Identifier: AGPL-3.0-or-later
"""The patches of one result as a file for another program."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orthanc_plugin.errors import ApiError
from orthanc_plugin.queue.values import AnalysisRequest
from orthanc_plugin.results import export
from orthanc_plugin.results.attention_file import Patches, UnreadableAttentionError, read_attention

from .artifacts import get_artifact
from .core import Core, find
from .record import read_result

PATCHES = "attention.npz"
H5 = "attention.h5"
_LONGEST_WAIT_S = 2.0
"""For the export before: that of a usual slide is done by then. A thread of Orthanc's is held meanwhile."""


@dataclass(frozen=True)
class Export:
    """A file: its name for people, type and bytes."""

    name: str
    content_type: str
    content: bytes


def export_patches(core: Core, request_id: str, form: str) -> Export:
    """Return every patch of a result in one of the forms of `FORMS`.

    Raises
    ------
    ApiError
        404 where there is no such form or the result has no patches (yet, or any more), 429 while others are
        being exported, 503 where Orthanc fails.
    """
    if form not in FORMS:
        raise ApiError(404, "unknown_route", f"Patches are exported as {', '.join(sorted(FORMS))}.")
    if not core.exporting.acquire(timeout=_LONGEST_WAIT_S):
        raise ApiError(
            429,
            "too_busy",
            "The patches of another result are being written; ask again in some seconds.",
            headers={"Retry-After": "5"},
        )
    try:
        return FORMS[form](core, find(core, request_id))
    finally:
        core.exporting.release()


def file_name(request: AnalysisRequest, form: str) -> str:
    """Return under which name a browser saves a file: of which slide, model and analysis, never whose."""
    slide = re.sub(r"\D", "", request.series_instance_uid)[-8:]
    model = re.sub(r"[^A-Za-z0-9._]+", "-", request.bound_model.name).strip("-.") or "model"
    return f"slide-{slide}-{model}-{request.request_id[:8]}.{form}"


def _h5(core: Core, request: AnalysisRequest) -> Export:
    """Hand out the worker's file: HDF5 is nothing to write without a library."""
    artifact, content = get_artifact(core, request.request_id, H5)
    return Export(file_name(request, "h5"), artifact.content_type, content)


def _csv(core: Core, request: AnalysisRequest) -> Export:
    patches, result = _patches(core, request)
    content = export.csv(patches, export.size_of(result.get("slide")))
    return Export(file_name(request, "csv"), "text/csv; charset=utf-8; header=present", content)


def _geojson(core: Core, request: AnalysisRequest) -> Export:
    patches, result = _patches(core, request)
    model = request.bound_model
    marks = {
        "Request": request.request_id,
        "Series": request.series_instance_uid,
        "Model": " ".join(filter(None, (model.name, model.version))),
    }
    size = export.size_of(result.get("slide"))
    content = export.geojson(patches, size, result.get("top_patches") or (), marks)
    return Export(file_name(request, "geojson"), "application/geo+json", content)


FORMS = {"geojson": _geojson, "csv": _csv, "h5": _h5}


def _patches(core: Core, request: AnalysisRequest) -> tuple[Patches, Mapping[str, Any]]:
    _, content = get_artifact(core, request.request_id, PATCHES)
    try:
        return read_attention(content), read_result(core, request) or {}
    except UnreadableAttentionError as error:
        raise ApiError(
            404, "unknown_artifact", f"{error} Analyse the slide again with a current worker."
        ) from error
