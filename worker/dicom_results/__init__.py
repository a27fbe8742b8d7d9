# SPDX-License-Identifier: Apache-2.0
"""Results as DICOM objects: values in, files out; nothing here talks to a server."""

from worker.dicom_results.build import (
    MAX_ARTIFACT_BYTES,
    DicomArtifact,
    DicomResults,
    Skipped,
    build_results,
)
from worker.dicom_results.errors import DicomResultsError
from worker.dicom_results.geometry import Attention
from worker.dicom_results.identity import Run, instance_uid, series_uid
from worker.dicom_results.source import SourceSlide

__all__ = [
    "MAX_ARTIFACT_BYTES",
    "Attention",
    "DicomArtifact",
    "DicomResults",
    "DicomResultsError",
    "Run",
    "Skipped",
    "SourceSlide",
    "build_results",
    "instance_uid",
    "series_uid",
]
