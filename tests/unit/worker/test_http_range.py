# SPDX-License-Identifier: Apache-2.0
"""Orthanc's own HTTP Range: few calls, the right bytes, and never those of another file.

The server is a small one of the tests with that one route: Debian's Orthanc 1.10 has none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from tests.support.odd_dicom import write_slide
from tests.support.ranges_server import RangesServer
from tests.support.slide_reading import assert_same_tiles, settings_for
from worker.sources import HttpRangeClient, HttpRangeSource, Reporting, open_request_slide
from worker.sources.errors import ChangedInMidReadError, SourceDeletedError, WayMissingError
from worker.sources.http_range import LONGEST_RUN, WIDEST_GAP, runs_of


@pytest.fixture
def server() -> Iterator[RangesServer]:
    with RangesServer() as running:
        running.behaviour.http_range = True
        running.behaviour.ranges_route = False
        yield running


@pytest.fixture
def slide_file(tmp_path: Path) -> Path:
    return write_slide(tmp_path)[0]


def source_of(server: RangesServer, session: requests.Session) -> HttpRangeSource:
    return HttpRangeSource(HttpRangeClient(settings_for(server.url), session, wait=lambda _seconds: False))


def test_without_the_plugins_ranges_the_worker_takes_http_range_by_itself(
    server: RangesServer, session: requests.Session, slide_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.store(slide_file)
    with open_request_slide(settings_for(server.url), session, server.claim()) as slide:
        assert_same_tiles(slide, [slide_file])
        assert isinstance(slide, Reporting)
        assert slide.source_report().kind == "http_range"
    assert "HTTP Range, which costs: one request for each run of tiles" in caplog.text


def test_a_server_that_sends_whole_files_is_found_out_before_anything_is_read(
    server: RangesServer, session: requests.Session, slide_file: Path
) -> None:
    server.behaviour.http_range = False
    server.store(slide_file)
    with pytest.raises(WayMissingError, match="whole files"):
        source_of(server, session).open(server.claim())


def test_the_smallest_image_is_asked_for_first(
    server: RangesServer, session: requests.Session, slide_file: Path
) -> None:
    server.store(slide_file)
    claim = server.claim()
    (image,) = claim.instances
    smaller = dataclasses.replace(image, id="smaller", size=image.size - 1)
    with pytest.raises(WayMissingError):
        source_of(server, session).open(dataclasses.replace(claim, instances=(image, smaller)))
    assert "smaller" in server.behaviour.paths[0]


def test_neighbouring_tiles_come_in_one_call(
    server: RangesServer, session: requests.Session, slide_file: Path
) -> None:
    server.store(slide_file)
    with source_of(server, session).open(server.claim()) as slide:
        slide.read_region((0, 0), 0, (1, 1))
        before = len(server.behaviour.paths)
        slide.read_region((0, 0), 0, (430, 250))
        asked = server.behaviour.paths[before:]
    assert [path.rsplit("/", 1)[1] for path in asked] == ["data", "info"]


def test_an_instance_overwritten_in_mid_read_never_gives_a_picture(
    server: RangesServer, session: requests.Session, slide_file: Path
) -> None:
    name = server.store(slide_file)
    with source_of(server, session).open(server.claim()) as slide:
        server.overwrite(name, slide_file.read_bytes() + b"\0\0")
        with pytest.raises(ChangedInMidReadError):
            slide.read_region((100, 100), 0, (100, 100))


def test_an_instance_deleted_in_mid_read_is_an_error(
    server: RangesServer, session: requests.Session, slide_file: Path
) -> None:
    name = server.store(slide_file)
    with source_of(server, session).open(server.claim()) as slide:
        del server.files[name]
        with pytest.raises(SourceDeletedError):
            slide.read_region((100, 100), 0, (100, 100))


def test_a_cut_connection_is_asked_again(
    server: RangesServer, session: requests.Session, slide_file: Path
) -> None:
    server.store(slide_file)
    with source_of(server, session).open(server.claim()) as slide:
        server.behaviour.drop_next = 3
        assert_same_tiles(slide, [slide_file])


@given(st.lists(st.tuples(st.integers(0, 10**8), st.integers(1, 10**5)), max_size=40))
def test_runs_hold_every_range_at_its_place_and_are_no_longer_than_allowed(
    ranges: list[tuple[int, int]],
) -> None:
    runs = runs_of(ranges)
    placed = {number: (run.offset + start, length) for run in runs for number, start, length in run.parts}
    assert [placed[number] for number in range(len(ranges))] == ranges
    assert all(run.length <= LONGEST_RUN for run in runs)
    assert all(start + length <= run.length for run in runs for _, start, length in run.parts)


def test_ranges_with_a_small_gap_are_one_run_and_with_a_large_one_two() -> None:
    assert len(runs_of([(0, 100), (100 + WIDEST_GAP, 100)])) == 1
    assert len(runs_of([(0, 100), (101 + WIDEST_GAP, 100)])) == 2
