# SPDX-License-Identifier: Apache-2.0
"""A real Orthanc takes the result objects, puts them beside the slide, and serves the map's frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from clam_core.slides import WsiDicomSlide
from tests.support.dicom_files import volume_file
from tests.support.dicom_pyramid import pyramid_folder
from tests.support.dicom_result_values import RUN, a_result, content_of, grid_attention
from tests.support.orthanc_server import OrthancServer, store_slide
from worker.dicom_results import Attention, DicomResults, SourceSlide, build_results
from worker.result_kinds import ResultKind

pytestmark = pytest.mark.server

OCTETS = 'multipart/related; type="application/octet-stream"'


@pytest.fixture(scope="module")
def server() -> Iterator[OrthancServer]:
    """Return an Orthanc of its own, so that other tests never meet these series."""
    with OrthancServer() as running:
        yield running


@pytest.fixture(scope="module")
def slide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pyramid_folder(tmp_path_factory.mktemp("slide") / "pyramid")


@pytest.fixture(scope="module")
def attention(slide_folder: Path) -> Attention:
    with WsiDicomSlide.open(slide_folder) as slide:
        return grid_attention((slide.levels[0].width, slide.levels[0].height), 6)


@pytest.fixture(scope="module")
def results(slide_folder: Path, attention: Attention) -> DicomResults:
    with WsiDicomSlide.open(slide_folder) as slide:
        size = (slide.levels[0].width, slide.levels[0].height)
        return build_results(SourceSlide.of(slide.headers), a_result(size, attention), attention, RUN)


@pytest.fixture(scope="module")
def stored(
    server: OrthancServer, slide_folder: Path, results: DicomResults
) -> dict[ResultKind, dict[str, str]]:
    """Store the slide, then its results; return Orthanc's answer for each of them."""
    store_slide(server, slide_folder)
    answers = {}
    for artifact in results.artifacts:
        answer = server.post("/instances", data=artifact.content)
        assert answer.status_code == 200, answer.text
        answers[artifact.kind] = answer.json()
    return answers


def test_all_of_them_are_stored_as_series_of_the_slides_study(
    server: OrthancServer, results: DicomResults, stored: dict[ResultKind, dict[str, str]]
) -> None:
    assert {answer["Status"] for answer in stored.values()} == {"Success"}
    assert len({answer["ParentStudy"] for answer in stored.values()}) == 1
    (study,) = {answer["ParentStudy"] for answer in stored.values()}
    series = [
        server.get(f"/series/{name}").json() for name in server.get(f"/studies/{study}").json()["Series"]
    ]
    assert sorted(item["MainDicomTags"]["Modality"] for item in series) == ["OT", "SM", "SR", "SR"]
    assert {artifact.series_instance_uid for artifact in results.artifacts} < {
        item["MainDicomTags"]["SeriesInstanceUID"] for item in series
    }


def test_storing_them_again_changes_nothing(
    server: OrthancServer, results: DicomResults, stored: dict[ResultKind, dict[str, str]]
) -> None:
    for artifact in results.artifacts:
        answer = server.post("/instances", data=artifact.content).json()
        assert answer["Status"] == "AlreadyStored"
        assert answer["ID"] == stored[artifact.kind]["ID"]


def test_the_maps_frames_are_served_over_dicomweb(
    server: OrthancServer, results: DicomResults, stored: dict[ResultKind, dict[str, str]]
) -> None:
    image = hd.imread(BytesIO(content_of(results, ResultKind.ATTENTION_MAP)))
    assert image.NumberOfFrames > 1
    for number in (1, int(image.NumberOfFrames)):
        answer = server.get(f"{instance_path(image)}/frames/{number}", headers={"Accept": OCTETS})
        assert answer.status_code == 200, answer.text
        frame = np.frombuffer(only_part(answer.content), dtype="<u2").reshape(image.Rows, image.Columns)
        np.testing.assert_array_equal(frame, image.get_stored_frame(number))


def test_frames_of_a_compressed_map_are_served_uncompressed(server: OrthancServer) -> None:
    header = pydicom.dcmread(volume_file(), stop_before_pixels=True)
    header.StudyInstanceUID = header.SeriesInstanceUID = generate_uid()
    header.TotalPixelMatrixColumns = header.TotalPixelMatrixRows = 6_000
    source = SourceSlide.of([header])
    attention = grid_attention(source.size, 256)
    run = replace(RUN, request_id="large")
    results = build_results(source, a_result(source.size, attention), attention, run)
    content = content_of(results, ResultKind.ATTENTION_MAP)
    assert server.post("/instances", data=content).status_code == 200
    image = hd.imread(BytesIO(content))
    assert image.file_meta.TransferSyntaxUID.is_encapsulated
    answer = server.get(f"{instance_path(image)}/frames/1", headers={"Accept": OCTETS})
    frame = np.frombuffer(only_part(answer.content), dtype="<u2").reshape(image.Rows, image.Columns)
    np.testing.assert_array_equal(frame, image.get_stored_frame(1))


def test_viewers_find_in_the_metadata_what_they_need_to_draw_the_map(
    server: OrthancServer, results: DicomResults, stored: dict[ResultKind, dict[str, str]]
) -> None:
    image = hd.imread(BytesIO(content_of(results, ResultKind.ATTENTION_MAP)))
    (metadata,) = server.get(f"{instance_path(image)}/metadata").json()
    (shared,) = metadata["52009229"]["Value"]
    (mapping,) = shared["00409096"]["Value"]
    assert mapping["00409216"]["Value"] == [1]
    assert mapping["00409211"]["Value"] == [10001]
    assert mapping["00409225"]["Value"] == [pytest.approx(0.01)]
    assert mapping["00409224"]["Value"] == [pytest.approx(-0.01)]
    assert "00289132" in shared
    assert metadata["00209311"]["Value"] == ["TILED_FULL"]


@pytest.mark.parametrize("kind", [ResultKind.SLIDE_REPORT, ResultKind.ROI_REPORT])
def test_the_reports_content_is_served_over_dicomweb(
    server: OrthancServer,
    results: DicomResults,
    stored: dict[ResultKind, dict[str, str]],
    kind: ResultKind,
) -> None:
    report = hd.sr.srread(BytesIO(content_of(results, kind)))
    (metadata,) = server.get(f"{instance_path(report)}/metadata").json()
    assert metadata["0040A730"]["Value"]


def test_a_map_is_no_slide_that_could_be_analysed_again(
    server: OrthancServer, stored: dict[ResultKind, dict[str, str]]
) -> None:
    series = stored[ResultKind.ATTENTION_MAP]["ParentSeries"]
    answer = server.post("/pathology/analyze", json={"series": series})
    assert answer.status_code == 422, answer.text


def instance_path(dataset: hd.SOPClass) -> str:
    return (
        f"/dicom-web/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}"
        f"/instances/{dataset.SOPInstanceUID}"
    )


def only_part(body: bytes) -> bytes:
    """Return the one part of a multipart body."""
    boundary = body.split(b"\r\n", 1)[0]
    _, part, _ = body.split(boundary, 2)
    return part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")
