# SPDX-License-Identifier: Apache-2.0
"""What reading a slide by byte ranges costs: frames are fetched and decoded once, in few and large reads."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
from wsidicom import WsiDicom
from wsidicom.geometry import Point

from clam_core.slides import OPENING, Prefetching, WsiDicomSlide
from tests.support.odd_dicom import COLUMNS, HEIGHT, ODD_STORAGE, ROWS, SPARSE_ORDER, TILE, WIDTH, write_slide
from tests.support.ranges_server import RangesServer
from tests.support.slide_reading import assert_same_tiles, settings_for
from worker.sources import OrthancRangesSource, RangesClient, RangesSlide, ranges_slide
from worker.sources.errors import SourceUnreachableError
from worker.sources.piece_cache import PieceCache
from worker.sources.prefetching import FrameNumbers
from worker.sources.ranges_client import joined

EVERY_TILE = [(column * TILE, row * TILE) for row in range(ROWS) for column in range(COLUMNS)]


@pytest.fixture
def server() -> Iterator[RangesServer]:
    with RangesServer() as running:
        yield running


def opened(server: RangesServer, session: requests.Session, files: list[Path]) -> RangesSlide:
    """Store a slide and open it by ranges."""
    for path in files:
        server.store(path)
    slide = OrthancRangesSource(RangesClient(settings_for(server.url), session)).open(server.claim())
    assert isinstance(slide, RangesSlide)
    return slide


def decodings(slide: RangesSlide, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which the length of every frame is added that is decoded from now on."""
    decoder = slide._images[0].decoder
    decode, found = decoder.decode, list[int]()

    def counted(frame: bytes) -> np.ndarray:
        found.append(len(frame))
        pixels: np.ndarray = decode(frame)
        return pixels

    monkeypatch.setattr(decoder, "decode", counted)
    return found


def holes() -> set[int]:
    """Return the tiles that a sparse slide lacks."""
    return set(range(COLUMNS * ROWS)) - set(SPARSE_ORDER)


@pytest.mark.parametrize("sparse", [False, True])
def test_pixels_belong_to_whoever_read_them(
    sparse: bool, server: RangesServer, session: requests.Session, tmp_path: Path
) -> None:
    files = write_slide(tmp_path, sparse=sparse)
    hole = min(holes())
    with opened(server, session, files) as slide, WsiDicomSlide.open(files) as local:
        for place in ((0, 0), (hole % COLUMNS * TILE, hole // COLUMNS * TILE), (TILE // 2, 0)):
            slide.read_region(place, 0, (TILE, TILE))[:] = 0
            np.testing.assert_array_equal(
                slide.read_region(place, 0, (TILE, TILE)), local.read_region(place, 0, (TILE, TILE))
            )


def test_pixels_that_a_decoder_lets_nobody_change_are_handed_out_as_a_copy(
    server: RangesServer, session: requests.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_slide(tmp_path)
    with opened(server, session, files) as slide, WsiDicomSlide.open(files) as local:
        decoder = slide._images[0].decoder
        decode = decoder.decode

        def read_only(frame: bytes) -> np.ndarray:
            pixels: np.ndarray = decode(frame)
            pixels.flags.writeable = False
            return pixels

        monkeypatch.setattr(decoder, "decode", read_only)
        tile = ((0, 0), 0, (TILE, TILE))
        slide.read_region(*tile)[:] = 0
        np.testing.assert_array_equal(slide.read_region(*tile), local.read_region(*tile))


def test_patches_that_are_tiles_decode_each_tile_once(
    server: RangesServer, session: requests.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(server, session, write_slide(tmp_path)) as slide:
        decoded = decodings(slide, monkeypatch)
        for place in EVERY_TILE:
            slide.read_region(place, 0, (TILE, TILE))
        assert len(decoded) == len(EVERY_TILE)


def test_patches_across_tiles_decode_each_tile_once(
    server: RangesServer, session: requests.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = TILE // 2 + 7
    with opened(server, session, write_slide(tmp_path)) as slide:
        decoded = decodings(slide, monkeypatch)
        for y in range(0, HEIGHT, side):
            for x in range(0, WIDTH, side):
                slide.read_region((x, y), 0, (side, side))
        assert len(decoded) == len(EVERY_TILE)


def test_a_tile_that_is_kept_for_a_part_of_it_is_not_decoded_again(
    server: RangesServer, session: requests.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(server, session, write_slide(tmp_path)) as slide:
        decoded = decodings(slide, monkeypatch)
        slide.read_region((TILE // 2, 0), 0, (TILE, TILE))
        slide.read_region((TILE, 0), 0, (TILE, TILE))
        assert len(decoded) == 2


@pytest.mark.parametrize("storage", ODD_STORAGE)
def test_rectangles_across_tiles_are_the_same_however_the_slide_is_stored(
    storage: str, server: RangesServer, session: requests.Session, tmp_path: Path
) -> None:
    files = write_slide(tmp_path, **ODD_STORAGE[storage])
    with opened(server, session, files) as slide, WsiDicomSlide.open(files) as local:
        for place in ((TILE // 2, TILE // 3), (TILE + 1, 2), (0, TILE - 1)):
            size = (2 * TILE - 5, TILE)
            np.testing.assert_array_equal(
                slide.read_region(place, 0, size), local.read_region(place, 0, size)
            )


@pytest.mark.parametrize("storage", ["jpeg", "no offsets", "extended offsets", "uncompressed"])
def test_frames_that_adjoin_in_the_file_are_asked_for_as_one_range(
    storage: str, server: RangesServer, session: requests.Session, tmp_path: Path
) -> None:
    files = write_slide(tmp_path, **ODD_STORAGE[storage])
    with opened(server, session, files) as slide:
        slide.read_region((0, 0), 0, (1, 1))
        server.behaviour.ranges.clear()
        slide.prefetch(0, EVERY_TILE[1:], (TILE, TILE))
        assert_same_tiles(slide, files)
    (call,) = server.behaviour.ranges
    assert len(call) == 1


def test_only_ranges_that_adjoin_in_their_order_are_joined() -> None:
    ranges = [(10, 5), (15, 1), (16, 4), (30, 2), (20, 10), (30, 2), (32, 1)]
    assert joined(ranges) == [(10, 10), (30, 2), (20, 13)]
    assert joined([(7, 3)]) == [(7, 3)]


@pytest.mark.parametrize("storage", ["jpeg", "sparse", "concatenation", "sparse concatenation"])
def test_the_numbers_of_frames_are_wsidicoms_own(storage: str, tmp_path: Path) -> None:
    with WsiDicom.open(write_slide(tmp_path, **ODD_STORAGE[storage]), settings=OPENING) as slide:
        image = slide.pyramids[0].base_level.default_instance.image_data
        numbers = FrameNumbers(image)
        for row in range(ROWS):
            for column in range(COLUMNS):
                own = image.tiles.get_frame_index(Point(column, row), image.default_z, image.default_path)
                assert numbers.of((column, row)) == own


def test_threads_that_want_the_first_frames_at_once_ask_for_their_index_once(
    server: RangesServer, session: requests.Session, tmp_path: Path
) -> None:
    with (
        opened(server, session, write_slide(tmp_path, offsets="empty")) as slide,
        ThreadPoolExecutor(8) as pool,
    ):
        assert isinstance(slide, Prefetching)
        list(pool.map(lambda place: slide.prefetch(0, [place], (TILE, TILE)), EVERY_TILE))
    assert sum(path.endswith("/frames") for path in server.behaviour.paths) == 1


NO_PLACES = {
    "a page": b"<html>Sign in</html>",
    "another document": b'{"status": "ok"}',
    "no document": b"[1, 2]",
    "no lists": b'{"offsets": 1, "lengths": 2}',
    "no numbers": b'{"offsets": ["a"], "lengths": [null]}',
    "fewer lengths than offsets": b'{"offsets": [1, 2], "lengths": [3]}',
}
"""What a proxy may answer in the plugin's place."""


@pytest.mark.parametrize("answer", NO_PLACES.values(), ids=list(NO_PLACES))
def test_an_answer_that_is_not_the_plugins_is_asked_for_again(
    answer: bytes, server: RangesServer, session: requests.Session, tmp_path: Path
) -> None:
    (path,) = write_slide(tmp_path, offsets="empty")
    name = server.store(path)
    server.behaviour.frames = [answer, b'{"offsets": [7], "lengths": [3]}']
    client = RangesClient(settings_for(server.url), session, lambda _seconds: False)
    (instance,) = server.claim(name).instances
    assert client.frames(instance) == [(7, 3)]


def test_a_proxy_that_answers_in_the_plugins_place_is_not_the_slides_fault(
    server: RangesServer, session: requests.Session, tmp_path: Path
) -> None:
    (path,) = write_slide(tmp_path, offsets="empty")
    server.store(path)
    server.behaviour.frames = [b"<html>Sign in</html>"] * 20
    client = RangesClient(settings_for(server.url), session, lambda _seconds: False)
    with (
        OrthancRangesSource(client).open(server.claim()) as slide,
        pytest.raises(SourceUnreachableError, match="check the proxy"),
    ):
        slide.read_region((0, 0), 0, (TILE, TILE))


def test_frames_and_tiles_that_were_dropped_for_want_of_room_are_had_again(
    server: RangesServer, session: requests.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges_slide, "_FRAMES_BOUND", 1)
    monkeypatch.setattr(ranges_slide, "_TILES_BOUND", 1)
    files = write_slide(tmp_path)
    with opened(server, session, files) as slide, WsiDicomSlide.open(files) as local:
        assert_same_tiles(slide, files)
        everything = ((0, 0), 0, (WIDTH, HEIGHT))
        np.testing.assert_array_equal(slide.read_region(*everything), local.read_region(*everything))


def test_pieces_are_kept_up_to_the_bound_the_least_used_dropped_first() -> None:
    cache = PieceCache[str, bytes](10, len)
    cache.put("a", b"12345")
    cache.put("b", b"123")
    cache.put("b", b"12345")
    assert cache.get("a") == b"12345"
    cache.put("c", b"1")
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (b"12345", None, b"1")


def test_a_piece_larger_than_the_bound_is_kept_alone() -> None:
    cache = PieceCache[str, bytes](10, len)
    cache.put("a", b"1")
    cache.put("b", b"1" * 11)
    assert (cache.get("a"), cache.get("b")) == (None, b"1" * 11)
