# SPDX-License-Identifier: Apache-2.0
"""DICOM results ride along with a result and never cost it."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset

from tests.support.dicom_files import volume_file
from worker.api.contract import Claim, Lease
from worker.dicom_results import Attention, build_results
from worker.jobs.dicom_step import NO_DICOM_SLIDE, NOT_WRITTEN, DicomStep
from worker.processes.apart import Apart
from worker.result_kinds import ALL_KINDS, ResultKind

CLAIM = Claim({"request_id": "a" * 32, "fingerprint": "f"}, Lease("0" * 32, 1, 60, 15, 15), ())
ATTENTION = Attention(np.array([[0, 0], [256, 0]]), (256.0, 256.0), np.array([50.0, 100.0]))
RESULT: dict[str, Any] = {
    "predicted_class": "tumor",
    "probabilities": {"normal": 0.2, "tumor": 0.8},
    "top_patches": [{"x": 256, "y": 0, "width": 256, "height": 256, "attention": 0.9, "percentile": 100.0}],
    "model": {"name": "m", "version": "1", "sha256": "0" * 64, "encoder": {"name": "e", "sha256": "1" * 64}},
    "quality": {"status": "ok", "flags": ["unapproved_model"]},
    "software": {"worker": "0.1.0"},
    "timings_s": {},
}


class FileSlide:
    """A slide that was opened from a file."""


class OpenDicomSlide:
    """A slide with headers."""

    def __init__(self, *headers: Dataset) -> None:
        self.headers = headers


def write(
    slide: Any, kinds: frozenset[ResultKind] = ALL_KINDS, attention: Attention | None = ATTENTION
) -> tuple[dict[str, Any], dict[str, bytes]]:
    step = DicomStep(kinds, now=lambda: dt.datetime(2026, 11, 22, 12, 0, tzinfo=dt.UTC))
    return step.write(slide, RESULT, attention, CLAIM)


@pytest.fixture
def dicom_slide() -> OpenDicomSlide:
    return OpenDicomSlide(pydicom.dcmread(volume_file(), stop_before_pixels=True))


def test_objects_are_the_same_from_a_process_beside_this_one(dicom_slide: OpenDicomSlide) -> None:
    now = dt.datetime(2026, 11, 22, 12, 0, tzinfo=dt.UTC)
    slide: Any = dicom_slide
    with Apart() as apart:
        step = DicomStep(ALL_KINDS, now=lambda: now, build=apart.doing(build_results))
        assert step.write(slide, RESULT, ATTENTION, CLAIM) == write(slide)


def test_a_dicom_slide_gets_every_object_that_is_wanted(dicom_slide: OpenDicomSlide) -> None:
    result, objects = write(dicom_slide)
    assert set(objects) == {"slide-report.dcm", "roi-report.dcm", "attention-map.dcm"}
    assert [entry["modality"] for entry in result["dicom"]] == ["SR", "SR", "OT"]
    assert all(data[128:132] == b"DICM" for data in objects.values())


def test_only_the_kinds_that_a_site_wants_are_written(dicom_slide: OpenDicomSlide) -> None:
    _, objects = write(dicom_slide, frozenset({ResultKind.SLIDE_REPORT}))
    assert set(objects) == {"slide-report.dcm"}


def test_nothing_is_written_where_none_is_wanted(dicom_slide: OpenDicomSlide) -> None:
    assert write(dicom_slide, frozenset()) == (RESULT, {})


def test_a_slide_from_a_file_has_no_header_to_refer_to_and_the_result_says_so() -> None:
    result, objects = write(FileSlide())
    assert objects == {}
    assert result["quality"]["flags"] == ["unapproved_model", NO_DICOM_SLIDE]


def test_a_header_that_results_cannot_refer_to_costs_the_objects_only() -> None:
    result, objects = write(OpenDicomSlide(Dataset()))
    assert objects == {}
    assert result["probabilities"] == RESULT["probabilities"]
    assert result["quality"]["flags"] == ["unapproved_model", NOT_WRITTEN]
