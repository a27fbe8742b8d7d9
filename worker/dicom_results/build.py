# SPDX-License-Identifier: Apache-2.0
"""All result objects of one request, and what could not be written and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset

from worker.logs import describe_foreign
from worker.quiet import unquoted
from worker.result_kinds import ALL_KINDS, ResultKind

from .attention_map import MAX_MAP_BYTES, attention_map, level_bytes, map_level
from .errors import HEADER_FAULTS
from .geometry import Attention
from .header import as_bytes
from .identity import Run
from .prediction import Prediction
from .roi_report import roi_report
from .slide_report import slide_report
from .source import SourceSlide

MAX_ARTIFACT_BYTES = 64 * 1024 * 1024
"""The plugin takes no larger ``NAME.dcm`` (docs/rest.md)."""


@dataclass(frozen=True)
class DicomArtifact:
    """One result object, ready to be sent.

    Attributes
    ----------
    name
        Of the artifact.
    content
        The DICOM file.
    """

    name: str
    kind: ResultKind
    modality: str
    series_instance_uid: str
    content: bytes

    def as_json(self) -> dict[str, str]:
        """Return the entry of the result's ``dicom`` list."""
        return {"modality": self.modality, "series_instance_uid": self.series_instance_uid}


@dataclass(frozen=True)
class Skipped:
    """A kind that was asked for and not written.

    Attributes
    ----------
    flag
        For the result's ``quality.flags``.
    reason
        A sentence for the log.
    """

    kind: ResultKind
    flag: str
    reason: str


@dataclass(frozen=True)
class DicomResults:
    """What came of a request."""

    artifacts: tuple[DicomArtifact, ...]
    skipped: tuple[Skipped, ...]


def build_results(
    source: SourceSlide,
    result: Mapping[str, Any],
    attention: Attention,
    run: Run,
    kinds: frozenset[ResultKind] = ALL_KINDS,
) -> DicomResults:
    """Write a result as DICOM objects.

    The same values give the same bytes.

    Parameters
    ----------
    source
        The slide that was analysed.
    result
        The result as the HTTP contract has it.
    attention
        Of every patch.
    run
        The request.
    kinds
        Which objects are wanted.

    Raises
    ------
    DicomResultsError
        If the result has not the shape of the contract.
    """
    prediction = Prediction.of(result)
    with unquoted():
        outcomes = [_outcome(kind, source, prediction, attention, run) for kind in _in_order(kinds)]
    return DicomResults(
        artifacts=tuple(outcome for outcome in outcomes if isinstance(outcome, DicomArtifact)),
        skipped=tuple(outcome for outcome in outcomes if isinstance(outcome, Skipped)),
    )


def _in_order(kinds: frozenset[ResultKind]) -> list[ResultKind]:
    return [kind for kind in ResultKind if kind in kinds]


def _outcome(
    kind: ResultKind, source: SourceSlide, prediction: Prediction, attention: Attention, run: Run
) -> DicomArtifact | Skipped:
    obstacle = _obstacle(kind, source, prediction, attention)
    if obstacle is not None:
        return obstacle
    try:
        artifact = _artifact(kind, _document(kind, source, prediction, attention, run))
    except HEADER_FAULTS as error:
        # Not the error's own text: it may quote a patient's name.
        reason = (
            f"The slide's header is unusual ({describe_foreign(error)}): please report it, with its make."
        )
        return Skipped(kind, "dicom_header_unusual", reason)
    if len(artifact.content) > MAX_ARTIFACT_BYTES:
        return _too_large(kind, len(artifact.content), MAX_ARTIFACT_BYTES)
    return artifact


def _document(
    kind: ResultKind, source: SourceSlide, prediction: Prediction, attention: Attention, run: Run
) -> Dataset:
    match kind:
        case ResultKind.SLIDE_REPORT:
            return slide_report(source, prediction, run)
        case ResultKind.ROI_REPORT:
            return roi_report(source, attention, prediction, run)
        case ResultKind.ATTENTION_MAP:
            return attention_map(source, attention, prediction, run)


def _artifact(kind: ResultKind, document: Dataset) -> DicomArtifact:
    return DicomArtifact(
        name=kind.artifact_name,
        kind=kind,
        modality=str(document.Modality),
        series_instance_uid=str(document.SeriesInstanceUID),
        content=as_bytes(document),
    )


def _obstacle(
    kind: ResultKind, source: SourceSlide, prediction: Prediction, attention: Attention
) -> Skipped | None:
    """Say why a kind cannot be written for this slide, or None where it can."""
    if kind is ResultKind.SLIDE_REPORT:
        return None
    if gaps := source.spatial_gaps:
        reason = f"The slide's header lacks {', '.join(gaps)}: nothing can be placed on it."
        return Skipped(kind, "dicom_position_unknown", reason)
    if prediction.slide_size not in {None, source.size}:
        reason = (
            f"The analysis saw {prediction.slide_size} pixels and the DICOM slide has {source.size}: "
            "positions would not fit."
        )
        return Skipped(kind, "dicom_size_differs", reason)
    if kind is ResultKind.ROI_REPORT:
        return _no_patches(prediction)
    return _no_map(source, attention)


def _no_patches(prediction: Prediction) -> Skipped | None:
    if prediction.top_patches:
        return None
    return Skipped(ResultKind.ROI_REPORT, "no_top_patches", "The result names no patches.")


def _no_map(source: SourceSlide, attention: Attention) -> Skipped | None:
    size = level_bytes(map_level(source, attention))
    if size <= MAX_MAP_BYTES:
        return None
    return _too_large(ResultKind.ATTENTION_MAP, size, MAX_MAP_BYTES)


def _too_large(kind: ResultKind, size: int, limit: int) -> Skipped:
    reason = (
        f"It would have {size >> 20} MB, and {limit >> 20} MB are allowed: give the slide smaller levels, "
        "on which its map fits."
    )
    return Skipped(kind, f"{kind.value.replace('-', '_')}_too_large", reason)
