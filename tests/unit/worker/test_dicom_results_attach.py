# SPDX-License-Identifier: Apache-2.0
"""DICOM objects are added to a result, and their absence never costs the result."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from clam_core.slides import OpenSlideSlide, WsiDicomSlide
from tests.support.dicom_files import volume_file
from tests.support.dicom_result_values import RUN, a_result, grid_attention
from tests.support.shared_data import shared_path
from worker.dicom_results import ALL_KINDS, ResultKind, attach_results, series_uid
from worker.logs import configure
from worker.settings import LogFormat

SIZE = (2220, 2967)
ATTENTION = grid_attention(SIZE, 256)
OTHERS = {"heatmap.png": b"png"}


def test_the_result_names_series_and_artifacts() -> None:
    with WsiDicomSlide.open(volume_file()) as slide:
        done = attach_results(slide, a_result(SIZE, ATTENTION), OTHERS, ATTENTION, RUN)
    assert list(done.artifacts) == [
        "heatmap.png",
        "slide-report.dcm",
        "roi-report.dcm",
        "attention-map.dcm",
    ]
    assert done.result["artifacts"] == list(done.artifacts)
    assert done.result["dicom"] == [
        {"modality": "SR", "series_instance_uid": series_uid(RUN.request_id, ResultKind.SLIDE_REPORT)},
        {"modality": "SR", "series_instance_uid": series_uid(RUN.request_id, ResultKind.ROI_REPORT)},
        {"modality": "OT", "series_instance_uid": series_uid(RUN.request_id, ResultKind.ATTENTION_MAP)},
    ]
    assert done.result["quality"] == {"status": "ok", "flags": []}


def test_switched_off_nothing_is_added_and_nothing_flagged() -> None:
    with WsiDicomSlide.open(volume_file()) as slide:
        done = attach_results(slide, a_result(SIZE, ATTENTION), OTHERS, ATTENTION, RUN, frozenset())
    assert done.artifacts == OTHERS
    assert done.result["dicom"] == []
    assert done.result["quality"]["flags"] == []


def test_what_is_left_out_is_flagged_once_beside_the_models_own_flags() -> None:
    result = a_result(SIZE, ATTENTION, quality={"status": "limited", "flags": ["few_patches"]})
    with OpenSlideSlide(shared_path("slides/CMU-1-Small-Region.svs")) as slide:
        done = attach_results(slide, result, OTHERS, ATTENTION, RUN, ALL_KINDS)
    assert done.artifacts == OTHERS
    assert done.result["quality"] == {"status": "limited", "flags": ["few_patches", "dicom_slide_not_read"]}


def test_a_result_that_cannot_be_written_is_kept_and_flagged(caplog: pytest.LogCaptureFixture) -> None:
    with WsiDicomSlide.open(volume_file()) as slide, caplog.at_level(logging.WARNING):
        done = attach_results(slide, a_result(SIZE, ATTENTION, model={}), OTHERS, ATTENTION, RUN)
    assert done.artifacts == OTHERS
    assert done.result["predicted_class"] == "oscc"
    assert done.result["quality"]["flags"] == ["dicom_results_failed"]
    assert "report it" in caplog.text


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_nothing_of_an_invalid_header_is_logged_or_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset = pydicom.dcmread(volume_file())
    dataset.PatientName, dataset.PatientID = "Secret=Name=With=Too=Many", "SECRET-ID"
    dataset.StudyDate, dataset.PatientSex = "SECRETDATE", "SECRETSEX"
    dataset.ImageOrientationSlide = [1.0, 0.0]
    dataset.save_as(tmp_path / "slide.dcm")
    log = io.StringIO()
    with WsiDicomSlide.open(tmp_path / "slide.dcm") as slide, logging_to(log):
        capfd.readouterr()
        done = attach_results(slide, a_result(SIZE, ATTENTION), OTHERS, ATTENTION, RUN)
    said = log.getvalue() + "".join(capfd.readouterr())
    assert done.result["quality"]["flags"] == ["dicom_header_unusual"]
    assert "unusual (builtins.ValueError at" in said
    assert "secret" not in said.lower()


@contextlib.contextmanager
def logging_to(stream: io.StringIO) -> Iterator[None]:
    """Log as the worker does at its most talkative, inside the block only."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure(LogFormat.TEXT, "DEBUG", stream=stream)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
