# SPDX-License-Identifier: Apache-2.0
"""Results as DICOM objects: values in, files out; nothing here talks to a server."""

from .build import MAX_ARTIFACT_BYTES, DicomArtifact, DicomResults, Skipped, build_results
from .errors import DicomResultsError
from .geometry import Attention
from .identity import Run, instance_uid, series_uid
from .source import SourceSlide

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
