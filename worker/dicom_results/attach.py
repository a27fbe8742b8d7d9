# SPDX-License-Identifier: Apache-2.0
"""Result objects put beside the other artifacts of a request; a result is never lost to them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clam_core.slides import Slide
from worker.dicom_results.build import DicomResults, build_results_of
from worker.dicom_results.errors import DicomResultsError
from worker.dicom_results.geometry import Attention
from worker.dicom_results.identity import Run
from worker.dicom_results.kinds import ALL_KINDS, ResultKind

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attached:
    """A result that names its DICOM objects.

    Attributes
    ----------
    result
        The contract's result with ``dicom``, ``artifacts`` and the flags of what was left out.
    artifacts
        Bytes of every artifact by name, DICOM objects last.
    """

    result: Mapping[str, Any]
    artifacts: Mapping[str, bytes] = field(repr=False)


def attach_results(
    slide: Slide,
    result: Mapping[str, Any],
    artifacts: Mapping[str, bytes],
    attention: Attention,
    run: Run,
    kinds: frozenset[ResultKind] = ALL_KINDS,
) -> Attached:
    """Write a complete result as DICOM objects and add them to it; see `build_results`.

    Parameters
    ----------
    slide
        The slide that was analysed, still open.
    result
        Complete but for its DICOM objects: ``software.worker`` is named in them.
    artifacts
        The others of the request.
    """
    try:
        built = build_results_of(slide, result, attention, run, kinds)
    except DicomResultsError as error:
        _log.warning("No DICOM results: %s", error)
        return Attached({**result, "quality": _flagged(result, ["dicom_results_failed"])}, artifacts)
    for skipped in built.skipped:
        _log.warning("No %s: %s", skipped.kind.artifact_name, skipped.reason)
    return attached(result, artifacts, built)


def attached(result: Mapping[str, Any], artifacts: Mapping[str, bytes], built: DicomResults) -> Attached:
    """Return a result and its artifacts with DICOM objects added."""
    together = {**artifacts, **{artifact.name: artifact.content for artifact in built.artifacts}}
    named = {
        **result,
        "artifacts": list(together),
        "dicom": [artifact.as_json() for artifact in built.artifacts],
        "quality": _flagged(result, [skipped.flag for skipped in built.skipped]),
    }
    return Attached(named, together)


def _flagged(result: Mapping[str, Any], flags: list[str]) -> dict[str, Any]:
    """Add flags to the quality, each once; its status stays, for the prediction is no worse."""
    quality = dict(result.get("quality") or {})
    return {**quality, "flags": list(dict.fromkeys([*(quality.get("flags") or []), *flags]))}
