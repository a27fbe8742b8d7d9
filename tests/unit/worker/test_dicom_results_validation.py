# SPDX-License-Identifier: Apache-2.0
"""An independent validator finds nothing wrong with the objects (dciodvfy of Debian's dicom3tools)."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from tests.support.dicom_files import volume_file
from tests.support.dicom_pyramid import headers_of, pyramid_folder
from tests.support.dicom_result_values import RUN, a_result, content_of, grid_attention
from tests.support.shared_data import shared_path
from worker.dicom_results import SourceSlide, build_results
from worker.result_kinds import ResultKind

ALLOWED = {
    r"Unrecognized defined term = <99ORTHANCPATH>": "a private coding scheme, declared in the object",
    r"ImageType.* - Unrecognized defined term = <QUANTITY>": (
        "PS3.3, C.8.32.2.1 has it for parametric maps; the validator (2022) lists older terms"
    ),
    r"FrameType.* - Unrecognized defined term = <QUANTITY>": "as ImageType",
    r"(PatientID|StudyDate|StudyTime|StudyID).* - Missing attribute or value that would be needed to build "
    r"DICOMDIR": "the slide leaves these empty, and results have the slide's study as it is",
}
OF_NEWER_VALIDATORS = (
    # Redundant in a TILED_FULL map, and taken by the validator of 2022; the one of Debian 13 expects none.
    r"PlanePositionSlideSequence\(0048,021a\).* - Attribute is not present in standard DICOM IOD",
)


@pytest.fixture(autouse=True)
def _validator() -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy: apt-get install dicom3tools")


def remarks(content: bytes, folder: Path) -> list[str]:
    """Return the validator's lines, but for the name of the IOD it recognised."""
    path = folder / "object.dcm"
    path.write_bytes(content)
    answer = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False)
    lines = answer.stderr.splitlines() + answer.stdout.splitlines()
    assert {"Comprehensive3DSR", "ParametricMap"} & set(lines), lines
    return [line for line in lines if line not in {"", "Comprehensive3DSR", "ParametricMap"}]


def unexpected(content: bytes, folder: Path) -> list[str]:
    return [
        line
        for line in remarks(content, folder)
        if line.startswith("Error")
        or not any(re.search(pattern, line) for pattern in (*ALLOWED, *OF_NEWER_VALIDATORS))
    ]


def filled_header(folder: Path) -> Dataset:
    """Write a real slide's header whose study and patient are filled in; return it as it is read."""
    header = pydicom.dcmread(volume_file(), stop_before_pixels=True)
    header.SpecificCharacterSet = "ISO_IR 192"
    header.PatientID, header.PatientName, header.PatientSex = "P-1", "김^민수", "F"
    header.StudyID, header.StudyDate, header.StudyTime = "S-1", "20260102", "101112"
    header.save_as(folder / "header.dcm")
    return pydicom.dcmread(folder / "header.dcm")


def objects(source: SourceSlide, *, predecessor: str | None = None) -> dict[ResultKind, bytes]:
    attention = grid_attention(source.size, 256 if source.size[0] > 1000 else 10)
    result = a_result(
        source.size,
        attention,
        quality={"status": "limited", "flags": ["few_patches", "염색이 흐립니다"]},
        probabilities={"정상": 0.1, "oscc": 0.9},
    )
    results = build_results(source, result, attention, replace(RUN, predecessor=predecessor))
    return {kind: content_of(results, kind) for kind in ResultKind}


@pytest.mark.parametrize("kind", ResultKind)
def test_objects_of_a_single_level_slide_are_valid(kind: ResultKind, tmp_path: Path) -> None:
    header = pydicom.dcmread(volume_file(), stop_before_pixels=True)
    assert not unexpected(objects(SourceSlide.of([header]))[kind], tmp_path)


@pytest.mark.parametrize("kind", ResultKind)
def test_objects_of_a_pyramid_are_valid(kind: ResultKind, tmp_path: Path) -> None:
    source = SourceSlide.of(headers_of(pyramid_folder(tmp_path / "slide")))
    assert not unexpected(objects(source)[kind], tmp_path)


@pytest.mark.parametrize("kind", ResultKind)
def test_objects_of_a_rerun_with_korean_names_are_valid(kind: ResultKind, tmp_path: Path) -> None:
    content = objects(SourceSlide.of([filled_header(tmp_path)]), predecessor="earlier")[kind]
    assert not unexpected(content, tmp_path)


@pytest.mark.parametrize("kind", ResultKind)
def test_objects_of_another_scanners_slide_are_valid(kind: ResultKind, tmp_path: Path) -> None:
    path = shared_path("slides/dicom-misc/hd_sm_image_uncompressed.dcm")
    source = SourceSlide.of([pydicom.dcmread(path, stop_before_pixels=True)])
    assert not unexpected(objects(source)[kind], tmp_path)


def test_the_list_of_allowed_remarks_holds_nothing_that_does_not_occur(tmp_path: Path) -> None:
    header = pydicom.dcmread(volume_file(), stop_before_pixels=True)
    said = [
        line for content in objects(SourceSlide.of([header])).values() for line in remarks(content, tmp_path)
    ]
    assert [pattern for pattern in ALLOWED if not any(re.search(pattern, line) for line in said)] == []
