# SPDX-License-Identifier: Apache-2.0
"""However DICOM lets a slide be stored, every tile by every source is what wsidicom reads from the file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
from wsidicom import WsiDicom
from wsidicom.errors import WsiDicomError
from wsidicom.instance.tile_index.sparse_tile_index import SparseTileIndex

from clam_core.errors import SlideError
from clam_core.slides import Slide, WsiDicomSlide, open_slide
from tests.support.dicom_pyramid import pyramid_folder
from tests.support.odd_dicom import HEIGHT, ODD_STORAGE, WIDTH, tissue, write_slide
from tests.support.ranges_server import RangesServer
from tests.support.slide_reading import assert_same_tiles, settings_for
from tests.support.tiny_dicom import nested_sequences
from worker.dicom_results import DicomResultsError, SourceSlide
from worker.sources import (
    DicomwebSlide,
    HttpRangeClient,
    HttpRangeSource,
    OrthancDownloadSource,
    OrthancRangesSource,
    RangesClient,
    SlideSource,
)
from worker.sources.dicomweb_client import DicomwebFrames
from worker.sources.errors import FragmentedFramesError, TruncatedSlideError
from worker.sources.headers import read_header
from worker.sources.source import SourceReport

MakeSource = Callable[[str, requests.Session, Path], SlideSource]
SOURCES: dict[str, MakeSource] = {
    "plugin ranges": lambda url, session, _: OrthancRangesSource(RangesClient(settings_for(url), session)),
    "http range": lambda url, session, _: HttpRangeSource(HttpRangeClient(settings_for(url), session)),
    "download": lambda url, session, folder: OrthancDownloadSource(settings_for(url), session, folder),
}


@pytest.fixture
def server() -> Iterator[RangesServer]:
    with RangesServer() as running:
        running.behaviour.http_range = True
        yield running


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("storage", ODD_STORAGE)
def test_every_tile_of_an_oddly_stored_slide_is_the_same(
    storage: str, source: str, server: RangesServer, session: requests.Session, tmp_path: Path
) -> None:
    files = write_slide(tmp_path / "slide", **ODD_STORAGE[storage])
    for path in files:
        server.store(path)
    with SOURCES[source](server.url, session, tmp_path).open(server.claim()) as slide:
        assert_same_tiles(slide, files)


@pytest.mark.parametrize("source", SOURCES)
def test_frames_under_a_header_of_other_colours_show_their_own(
    source: str, server: RangesServer, session: requests.Session, tmp_path: Path
) -> None:
    (path,) = write_slide(tmp_path / "slide", encoding="jpeg")
    dataset = pydicom.dcmread(path)
    dataset.PhotometricInterpretation = "RGB"
    dataset.save_as(path)
    server.store(path)
    with SOURCES[source](server.url, session, tmp_path).open(server.claim()) as slide:
        shown = slide.read_region((0, 0), 0, (WIDTH, HEIGHT))
    assert np.abs(shown.astype(int) - tissue()).mean() < 5


@pytest.mark.parametrize("source", SOURCES)
def test_levels_with_tiles_of_other_sizes_belong_to_the_slide(
    source: str, server: RangesServer, session: requests.Session, tmp_path: Path
) -> None:
    folder = pyramid_folder(tmp_path / "slide", tiles={16: 128})
    files = sorted(folder.glob("*.dcm"))
    for path in files:
        server.store(path)
    with SOURCES[source](server.url, session, tmp_path).open(server.claim()) as slide:
        assert len(slide.levels) == 3
        assert_same_tiles(slide, files)


def test_frames_in_several_pieces_are_refused_and_never_shown(
    server: RangesServer, session: requests.Session, tmp_path: Path
) -> None:
    for path in write_slide(tmp_path, fragments=2):
        server.store(path)
    with (
        SOURCES["plugin ranges"](server.url, session, tmp_path).open(server.claim()) as slide,
        pytest.raises(FragmentedFramesError, match="worker ingest"),
    ):
        slide.read_region((0, 0), 0, (50, 50))


def test_a_frame_that_no_decoder_takes_is_the_slides_fault_not_the_disks(tmp_path: Path) -> None:
    (path,) = write_slide(tmp_path, frames=[b"\xff\xd8 no picture "] * 15)
    with WsiDicomSlide.open(path) as slide, pytest.raises(SlideError, match="damaged"):
        slide.read_region((0, 0), 0, (50, 50))


def test_a_file_that_was_cut_short_says_so(
    server: RangesServer, session: requests.Session, tmp_path: Path
) -> None:
    (path,) = write_slide(tmp_path)
    path.write_bytes(path.read_bytes()[:-5000])
    server.store(path)
    with (
        SOURCES["plugin ranges"](server.url, session, tmp_path).open(server.claim()) as slide,
        pytest.raises(TruncatedSlideError, match="cut short"),
    ):
        slide.read_region((300, 150), 0, (130, 100))


def test_a_missing_part_of_a_level_is_not_passed_over(
    server: RangesServer, session: requests.Session, tmp_path: Path
) -> None:
    for path in write_slide(tmp_path, parts=3)[:2]:
        server.store(path)
    with pytest.raises(SlideError, match="2 of 3 are there") as caught:
        SOURCES["plugin ranges"](server.url, session, tmp_path).open(server.claim())
    assert caught.value.code == "frames_missing"


@pytest.mark.parametrize(
    ("plane", "code"), [("NumberOfOpticalPaths", "several_optical_paths"), ("focal", "several_focal_planes")]
)
def test_which_of_several_planes_is_meant_is_not_guessed(
    plane: str, code: str, server: RangesServer, session: requests.Session, tmp_path: Path
) -> None:
    (path,) = write_slide(tmp_path)
    dataset: Any = pydicom.dcmread(path)
    if plane == "focal":
        dataset.TotalPixelMatrixFocalPlanes = 3
        dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = 0.001
    else:
        dataset.NumberOfOpticalPaths = 3
    dataset.NumberOfFrames = 45
    dataset.save_as(path)
    server.store(path)
    with pytest.raises(SlideError, match="export one of them") as caught:
        SOURCES["plugin ranges"](server.url, session, tmp_path).open(server.claim())
    assert caught.value.code == code


def test_focal_planes_that_only_single_frames_name_are_found_as_well(tmp_path: Path) -> None:
    (path,) = write_slide(tmp_path, sparse=True)
    dataset: Any = pydicom.dcmread(path)
    last = dataset.PerFrameFunctionalGroupsSequence[-1].PlanePositionSlideSequence[0]
    last.ZOffsetInSlideCoordinateSystem = 4.0
    dataset.save_as(path)
    with pytest.raises(SlideError, match="2 focal planes"):
        WsiDicomSlide.open(path)


def emptied_origin(header: Any) -> None:
    header.TotalPixelMatrixOriginSequence[0].ZOffsetInSlideCoordinateSystem = None


EMPTIED: dict[str, Callable[[Any], None]] = {
    "paths": lambda header: setattr(header, "NumberOfOpticalPaths", None),
    "planes": lambda header: setattr(header, "TotalPixelMatrixFocalPlanes", None),
    "orientation": lambda header: setattr(header, "ImageOrientationSlide", None),
    "origin": emptied_origin,
}


def slide_with_an_empty(attribute: str, folder: Path) -> Path:
    (path,) = write_slide(folder)
    dataset = pydicom.dcmread(path)
    EMPTIED[attribute](dataset)
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("empty", EMPTIED)
def test_a_header_that_leaves_something_empty_is_the_slides_fault(
    empty: str, source: str, server: RangesServer, session: requests.Session, tmp_path: Path
) -> None:
    server.store(slide_with_an_empty(empty, tmp_path / "slide"))
    with pytest.raises(SlideError, match="leaves something empty"):
        SOURCES[source](server.url, session, tmp_path).open(server.claim())


@pytest.mark.parametrize("empty", EMPTIED)
def test_so_it_is_of_a_local_file(empty: str, tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="leaves something empty"):
        WsiDicomSlide.open(slide_with_an_empty(empty, tmp_path))


def deep_slide(folder: Path, depth: int, *, ends: bool) -> Path:
    """Write a slide with sequences in its header that lie in one another."""
    (path,) = write_slide(folder)
    content = path.read_bytes()
    at = content.index(b"\x48\x00\x01\x00FL")
    path.write_bytes(content[:at] + nested_sequences(depth, ends=ends) + content[at:])
    return path


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("depth", "ends"), [(40, True), (600, False), (2000, False)])
def test_a_header_that_is_nested_too_deep_is_the_slides_fault(
    depth: int, ends: bool, source: str, server: RangesServer, session: requests.Session, tmp_path: Path
) -> None:
    server.store(deep_slide(tmp_path / "slide", depth, ends=ends))
    with pytest.raises(SlideError, match="more than 32 deep"):
        SOURCES[source](server.url, session, tmp_path).open(server.claim())


def test_a_header_that_pydicom_cannot_read_for_its_depth_is_the_slides_fault(tmp_path: Path) -> None:
    path = deep_slide(tmp_path, 2000, ends=True)
    with path.open("rb") as stream, pytest.raises(SlideError, match="more than 32 deep"):
        read_header(stream)


def test_a_header_with_some_sequences_in_one_another_is_read(
    server: RangesServer, session: requests.Session, tmp_path: Path
) -> None:
    server.store(deep_slide(tmp_path / "slide", 32, ends=True))
    with SOURCES["plugin ranges"](server.url, session, tmp_path).open(server.claim()) as slide:
        assert slide.levels[0].width == WIDTH


def test_results_do_not_refer_to_a_local_file_that_is_nested_too_deep(tmp_path: Path) -> None:
    """Pydicom does not come to an end with one like this."""
    path = deep_slide(tmp_path, 600, ends=False)
    with WsiDicomSlide.open(path) as slide, pytest.raises(DicomResultsError, match="more than 32 deep"):
        SourceSlide.of(slide.headers)


def test_a_folder_with_a_file_that_is_nested_too_deep_says_so(tmp_path: Path) -> None:
    deep_slide(tmp_path, 2000, ends=True)
    with pytest.raises(SlideError):
        open_slide(tmp_path)


@pytest.mark.parametrize("source", SOURCES)
def test_a_tile_that_lies_where_the_slide_has_none_is_the_slides_fault(
    source: str, server: RangesServer, session: requests.Session, tmp_path: Path
) -> None:
    (path,) = write_slide(tmp_path / "slide", sparse=True)
    dataset: Any = pydicom.dcmread(path)
    third = dataset.PerFrameFunctionalGroupsSequence[2].PlanePositionSlideSequence[0]
    third.ColumnPositionInTotalImagePixelMatrix = 5000
    dataset.save_as(path)
    server.store(path)
    with pytest.raises(SlideError, match="contradicts itself"):
        SOURCES[source](server.url, session, tmp_path).open(server.claim())


def by_ranges(files: list[Path], server: RangesServer, session: requests.Session) -> Slide:
    for path in files:
        server.store(path)
    return OrthancRangesSource(RangesClient(settings_for(server.url), session)).open(server.claim())


def by_dicomweb(files: list[Path], server: RangesServer, session: requests.Session) -> Slide:
    claim = server.claim()
    frames = DicomwebFrames(settings_for(server.url), session, ("1.2", "1.2.3"), claim.instances)
    return DicomwebSlide(WsiDicom.open(files), frames, lambda: SourceReport("dicomweb"))


@pytest.mark.parametrize("opened", [by_ranges, by_dicomweb])
def test_positions_that_cannot_be_read_later_are_the_slides_fault_too(
    opened: Callable[[list[Path], RangesServer, requests.Session], Slide],
    server: RangesServer,
    session: requests.Session,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with opened(write_slide(tmp_path, sparse=True), server, session) as slide:

        def contradiction(*_: object) -> int:
            raise WsiDicomError("It lies nowhere.")

        monkeypatch.setattr(SparseTileIndex, "get_frame_index", contradiction)
        with pytest.raises(TruncatedSlideError, match="tiles lie"):
            slide.read_region((0, 0), 0, (50, 50))


def test_a_claim_without_parameters_asks_for_nothing(server: RangesServer) -> None:
    claim = server.claim()
    asking = dataclasses.replace(claim, request={**claim.request, "parameters": {"mpp": 0.5}})
    assert (dict(claim.parameters), dict(asking.parameters)) == ({}, {"mpp": 0.5})
