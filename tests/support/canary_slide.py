# SPDX-License-Identifier: Apache-2.0
"""A slide whose header says in every text whose it is, so that any of it is found wherever it gets."""

from __future__ import annotations

from pathlib import Path

import pydicom

from tests.support.dicom_files import another_slide

CANARIES = (b"canary", b"19010203", b"19020304")
"""What no log, disk or message may hold; the word in lower case, to be looked for so."""

_TEXTS = frozenset({"AE", "LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_KEPT = frozenset({"CodeMeaning", "CodeValue", "CodingSchemeDesignator", "OpticalPathIdentifier"})
"""Texts that say how to read a slide, and nothing of whose it is."""

_OF_A_PATIENT = (
    "AccessionNumber",
    "AdditionalPatientHistory",
    "AdmittingDiagnosesDescription",
    "BarcodeValue",
    "ContainerIdentifier",
    "InstitutionName",
    "LabelText",
    "OperatorsName",
    "OtherPatientIDs",
    "PatientAddress",
    "PatientComments",
    "PatientID",
    "PatientName",
    "PatientTelephoneNumbers",
    "PerformingPhysicianName",
    "ReferringPhysicianName",
    "SeriesDescription",
    "StudyDescription",
    "StudyID",
)


def canary_slide(folder: Path) -> Path:
    """Write a small real slide with such a header; return the file."""
    path = another_slide(folder, container_id="CANARY-GLASS")
    dataset = pydicom.dcmread(path)
    for keyword in _OF_A_PATIENT:
        setattr(dataset, keyword, "CANARY")
    for number, element in enumerate(dataset.iterall()):
        if element.VR in _TEXTS and element.keyword not in _KEPT:
            element.value = f"CANARY-{number}"
    dataset.PatientBirthDate, dataset.StudyDate = "19010203", "19020304"
    dataset.private_block(0x0009, "CANARY-MAKER", create=True).add_new(1, "LO", "CANARY-PRIVATE")
    dataset.save_as(path)
    return path


def canaries_in(content: bytes) -> list[bytes]:
    """Return the canaries that a content holds, each with what stands around it."""
    lower = content.lower()
    places = [(lower.find(canary), canary) for canary in CANARIES]
    return [lower[max(place - 40, 0) : place + 40] for place, _ in places if place >= 0]
