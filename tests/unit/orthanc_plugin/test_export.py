# SPDX-License-Identifier: AGPL-3.0-or-later
"""Patches for other programs: what a worker's file holds, and what GeoJSON and CSV make of it."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
import zipfile
from array import array
from typing import Any

import numpy as np
import pytest
from shapely.geometry import box, shape

from orthanc_plugin.results import attention_file, export
from orthanc_plugin.results.attention_file import Patches, UnreadableAttentionError, read_attention
from tests.support.analysed_slide import attention_npz, top_patches

SIZE = (1000.0, 700.0)
CORNERS = [(0, 0), (512, 0), (768, 512)]


def npz(**changes: Any) -> bytes:
    """Return an attention.npz as the worker writes it, with other arrays in place of some."""
    arrays = {
        "coords": np.array(CORNERS, dtype=np.int64),
        "footprint": np.asarray((256, 256)),
        "attention": np.array([0.1, 0.7, 0.2]),
        "percentile": np.array([33.3, 100.0, 66.7]),
        **changes,
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: value for name, value in arrays.items() if value is not None})
    return buffer.getvalue()


def features_of(
    patches: Patches, top: list[dict[str, Any]] | None = None, size: export.Size = SIZE
) -> list[dict[str, Any]]:
    document = json.loads(export.geojson(patches, size, top or [], {"Model": "demo 1"}))
    assert document["type"] == "FeatureCollection"
    features: list[dict[str, Any]] = document["features"]
    return features


def test_the_worker_s_arrays_are_read_as_it_wrote_them() -> None:
    patches = read_attention(attention_npz())
    held = np.load(io.BytesIO(attention_npz()))
    assert list(patches.corners) == held["coords"].ravel().tolist()
    assert list(patches.attention) == held["attention"].tolist()
    assert list(patches.percentile) == held["percentile"].tolist()
    assert (patches.width, patches.height) == tuple(held["footprint"])


def test_patches_may_be_wider_than_high() -> None:
    patches = read_attention(npz(footprint=np.array([256, 128])))
    assert (patches.width, patches.height) == (256, 128)


@pytest.mark.parametrize("kind", ["<i4", "<f4", "<f8"])
def test_coordinates_of_every_kind_of_number_are_read(kind: str) -> None:
    patches = read_attention(npz(coords=np.array(CORNERS, dtype=kind)))
    assert list(patches.corners) == [0, 0, 512, 0, 768, 512]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"PK\x03\x04 and nothing more", "cannot be read"),
        (npz()[:-40], "cannot be read"),
        (npz(percentile=None), "percentile"),
        (npz(coords=np.array(CORNERS, dtype=object)), "cannot be read"),
        (npz(coords=np.asfortranarray(np.array(CORNERS))), "column by column"),
        (npz(attention=np.array([0.5, 0.5])), "do not belong together"),
        (npz(footprint=np.array([256])), "do not belong together"),
        (npz(attention=np.array([0.1, np.nan, 0.2])), "no numbers"),
    ],
)
def test_a_file_that_is_no_workers_is_refused_with_a_sentence(content: bytes, sentence: str) -> None:
    with pytest.raises(UnreadableAttentionError, match=sentence):
        read_attention(content)


def test_a_file_that_unpacks_to_more_than_any_slide_has_is_not_unpacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention_file, "_MOST_BYTES", 1000)
    with pytest.raises(UnreadableAttentionError, match="more than"):
        read_attention(npz(coords=np.zeros((5000, 2), dtype=np.int64)))


def test_an_archive_of_a_great_many_files_is_not_listed() -> None:
    buffer = io.BytesIO(npz())
    with zipfile.ZipFile(buffer, "a") as archive:
        for number in range(100):
            archive.writestr(str(number), b"")
    with pytest.raises(UnreadableAttentionError, match="more than 100 files"):
        read_attention(buffer.getvalue())


def holding(coords: bytes, packed: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive with these bytes in place of the coordinates."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packed) as archive:
        archive.writestr("coords.npy", coords)
    return buffer.getvalue()


def test_a_hand_made_header_that_is_code_is_not_run() -> None:
    code = b"\x93NUMPY\x01\x00\x30\x00" + b"__import__('os').abort()".ljust(0x30)
    with pytest.raises(UnreadableAttentionError):
        read_attention(holding(code))


def test_a_hand_made_header_that_is_nested_is_not_followed() -> None:
    form = b"{'descr': '<i8', 'fortran_order': False, 'shape': " + b"-" * 3000 + b"1}"
    nested = b"\x93NUMPY\x01\x00" + len(form).to_bytes(2, "little") + form
    with pytest.raises(UnreadableAttentionError, match="not numpy's"):
        read_attention(holding(nested))


def test_an_array_without_even_a_version_is_refused() -> None:
    with pytest.raises(UnreadableAttentionError, match="cannot be read"):
        read_attention(holding(b"\x93NUMPY"))


@pytest.mark.parametrize("packed", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_what_numpy_does_not_pack_is_not_unpacked(packed: int) -> None:
    whole = holding(bytes(range(256)) * 9, packed)
    broken = whole[:60] + b"\xff" * 20 + whole[80:]
    for content in (whole, broken):
        with pytest.raises(UnreadableAttentionError, match="packed in a way"):
            read_attention(content)


def test_csv_has_a_line_for_each_patch_cut_off_at_the_slides_edge() -> None:
    rows = list(csv.DictReader(io.StringIO(export.csv(read_attention(npz()), SIZE).decode())))
    assert list(rows[0]) == ["x", "y", "width", "height", "attention", "percentile"]
    assert [[float(row[name]) for name in ("x", "y", "width", "height")] for row in rows] == [
        [0, 0, 256, 256],
        [512, 0, 256, 256],
        [768, 512, 232, 188],
    ]
    assert [float(row["attention"]) for row in rows] == [0.1, 0.7, 0.2]


def test_every_patch_is_a_tile_with_its_attention_as_measurements() -> None:
    tiles = features_of(read_attention(npz()))
    assert [tile["properties"]["objectType"] for tile in tiles] == ["tile"] * 3
    assert tiles[1]["properties"]["measurements"] == {"Attention": 0.7, "Attention percentile": 100}
    assert shape(tiles[1]["geometry"]).equals(box(512, 0, 768, 256))
    assert shape(tiles[2]["geometry"]).bounds == (768, 512, 1000, 700)


def test_the_most_attended_patches_are_named_annotations_in_the_first_place() -> None:
    top = top_patches()
    features = features_of(read_attention(attention_npz()), top, size=None)
    first = features[0]["properties"]
    assert (first["objectType"], first["name"]) == ("annotation", "Patch 1")
    assert first["measurements"]["Attention"] == top[0]["attention"]
    assert first["metadata"] == {"Model": "demo 1"}
    kinds = [feature["properties"]["objectType"] for feature in features]
    assert kinds == ["annotation"] * len(top) + ["tile"] * (len(features) - len(top))


def test_geometries_are_valid_closed_polygons() -> None:
    features = features_of(read_attention(attention_npz()), top_patches(), size=None)
    assert features
    for feature in features:
        polygon = shape(feature["geometry"])
        ring = feature["geometry"]["coordinates"][0]
        assert polygon.is_valid
        assert polygon.area > 0
        assert ring[0] == ring[-1]


def test_what_is_no_patch_in_a_workers_list_is_passed_over() -> None:
    whole = top_patches()[0]
    odd: list[Any] = [{"x": "<b>", "y": 0}, None, 7, {**whole, "attention": True}, {**whole, "x": 10**400}]
    assert {f["properties"]["objectType"] for f in features_of(read_attention(npz()), odd)} == {"tile"}


@pytest.mark.parametrize(
    "slide", [None, {}, {"width": "wide", "height": 3}, {"width": 10}, {"width": 10**400, "height": 9}]
)
def test_without_a_size_nothing_is_cut_off(slide: Any) -> None:
    assert export.size_of(slide) is None
    rows = export.csv(read_attention(npz()), None).splitlines()
    assert rows[3].startswith(b"768,512,256,256,")


def test_what_lies_beyond_the_slide_is_left_out() -> None:
    patches = read_attention(npz(coords=np.array([(0, 0), (1000, 0), (0, -256)])))
    features = features_of(patches, [{**top_patches()[0], "x": 1000}])
    assert [shape(feature["geometry"]).bounds for feature in features] == [(0, 0, 256, 256)]
    assert len(export.csv(patches, SIZE).splitlines()) == 2


def test_a_box_without_an_end_is_left_out() -> None:
    corners = np.array([(0.0, 0.0), (1.7e308, 0.0), (0.0, 0.0)])
    features = features_of(read_attention(npz(coords=corners, footprint=(1e308, 9))), size=None)
    assert len(features) == 2


def test_the_text_of_many_patches_is_held_once() -> None:
    count = 20_000
    places = array("q", range(2 * count))
    patches = Patches(places, 256, 256, array("d", [0.5] * count), array("d", [50.0] * count))
    tracemalloc.start()
    try:
        content = export.geojson(patches, None, [], {})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert content.count(b'"tile"') == count
    assert peak < 1.5 * len(content)
