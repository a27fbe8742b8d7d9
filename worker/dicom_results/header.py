# SPDX-License-Identifier: Apache-2.0
"""What the headers of all results share: series, marks, dates, the slide's own identity."""

from __future__ import annotations

from datetime import datetime
from io import BytesIO

from pydicom import Dataset, dcmwrite

from worker.result_kinds import ResultKind

from .identity import Run
from .prediction import Prediction
from .source import keep_unchecked
from .texts import long_text

MANUFACTURER = "orthanc-pathology"
CHARACTER_SET = "ISO_IR 192"
"""UTF-8: names of patients and classes in any script, whatever the slide was written in."""

SERIES_NUMBERS = {
    ResultKind.SLIDE_REPORT: 9001,
    ResultKind.ROI_REPORT: 9002,
    ResultKind.ATTENTION_MAP: 9003,
}
"""High enough to stand behind the slides of a study."""

_TITLES = {
    ResultKind.SLIDE_REPORT: "AI report",
    ResultKind.ROI_REPORT: "AI patches",
    ResultKind.ATTENTION_MAP: "AI attention",
}
"""Short, so that all of a description fits into the 64 characters of LO."""
_DEMONSTRATION = "demonstration, not for clinical use"
_RESEARCH = "not for clinical use"
_RUN_DIGITS = 4
"""Of the request's id: enough to tell the runs on one slide apart, and to find them among the requests."""


def warning_text(prediction: Prediction) -> str:
    """Return in words what the result may not be used for."""
    return _DEMONSTRATION if prediction.model.is_demonstration else _RESEARCH


def series_description(kind: ResultKind, prediction: Prediction, run: Run) -> str:
    """Return what a list of series shows: what it is, of which run, and what it may not be used for."""
    made = f"{run.created:%Y-%m-%d %H:%M} #{run.request_id[:_RUN_DIGITS]}"
    use = f"demo, {_RESEARCH}" if prediction.model.is_demonstration else _RESEARCH
    return long_text(f"{_TITLES[kind]} {made} ({use})")


def finish(document: Dataset, kind: ResultKind, slide: Dataset, prediction: Prediction, run: Run) -> Dataset:
    """Put into a new object what highdicom leaves to its caller, and take out what differs every time."""
    document.SeriesDescription = series_description(kind, prediction, run)
    document.ManufacturerModelName = long_text(prediction.model.name)
    document.SoftwareVersions = long_text(prediction.worker_version)
    document.DeviceSerialNumber = "none"
    keep_unchecked(document, slide)
    _set_dates(document, run.created)
    return document


def as_bytes(document: Dataset) -> bytes:
    """Return the object as a DICOM file."""
    buffer = BytesIO()
    dcmwrite(buffer, document, enforce_file_format=True)
    return buffer.getvalue()


def _set_dates(document: Dataset, created: datetime) -> None:
    date, time = created.strftime("%Y%m%d"), created.strftime("%H%M%S")
    for name in ("InstanceCreation", "Series", "Content"):
        setattr(document, f"{name}Date", date)
        setattr(document, f"{name}Time", time)
    # The last contributor is highdicom, which puts its own clock there.
    document.ContributingEquipmentSequence[-1].ContributionDateTime = date + time
