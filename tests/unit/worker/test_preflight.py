# SPDX-License-Identifier: Apache-2.0
"""What is refused by its header alone, before any work: each with a code, and a sentence that helps."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from PIL import ImageCms
from pydicom import Dataset
from pydicom.uid import (
    MPEG2MPML,
    ExplicitVRBigEndian,
    JPEGExtended12Bit,
    generate_uid,
)

from clam_core.errors import SlideError
from tests.support.dicom_files import ct_file, is_volume, slide_folder
from tests.support.dicom_files import volume_file as real_volume
from tests.support.shared_data import shared_path
from worker.sources.headers import read_header
from worker.sources.preflight import (
    FRAME_OF_REFERENCE_MISSING,
    ICC_MISSING,
    ICC_UNREADABLE,
    check_slide,
    expected_frames,
    mpp_of,
)

Change = Callable[[Any], None]


def header_of(path: Path) -> Dataset:
    with path.open("rb") as stream:
        return read_header(stream)


@pytest.fixture
def header() -> Any:
    """The header of a slide that may be analysed; tests make it one that may not."""
    return header_of(real_volume())


def refusal(*headers: Dataset, **parameters: Any) -> SlideError:
    with pytest.raises(SlideError) as caught:
        check_slide(headers, parameters)
    return caught.value


def spacing_of(header: Any) -> Any:
    return header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]


def test_a_real_slide_passes_without_a_note(header: Dataset) -> None:
    assert check_slide([header], {}) == ()


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("camelyon_thumb_jpeg2000_tiledfull.dcm", (ICC_MISSING,)),
        ("hd_sm_image_uncompressed.dcm", ()),
        ("hd_sm_image_jpegls.dcm", ()),
        ("hd_seg_image_sm_control.dcm", "no_volume"),
        ("hd_sm_annotations.dcm", "no_volume"),
        ("label_only_volume_missing.dcm", "no_volume"),
        ("label_as_concatenation_member.dcm", "no_volume"),
        ("slide_coordinates_not_wsi.dcm", "no_volume"),
    ],
)
def test_every_odd_file_at_hand_passes_or_is_named(name: str, outcome: tuple[str, ...] | str) -> None:
    found = header_of(shared_path(f"slides/dicom-misc/{name}"))
    volumes = [found] if "VOLUME" in found.get("ImageType", ()) else []
    if isinstance(outcome, str):
        assert refusal(*volumes).code == outcome
    else:
        assert check_slide(volumes, {}) == outcome


def test_every_file_at_hand_is_in_the_list_above() -> None:
    named = {"camelyon", "hd_sm", "hd_seg", "label_only", "label_as", "slide_coordinates"}
    files = [path.name for path in shared_path("slides/dicom-misc").glob("*.dcm")]
    assert len(files) == 8
    assert all(any(name.startswith(prefix) for prefix in named) for name in files)


def test_of_the_real_folder_the_volume_alone_is_the_slide() -> None:
    headers = [header_of(path) for path in sorted(slide_folder().glob("*.dcm"))]
    assert check_slide([found for found in headers if is_volume(found)], {}) == ()


def test_a_ct_is_no_slide(tmp_path: Path) -> None:
    error = refusal(header_of(ct_file(tmp_path)))
    assert (error.code, "TotalPixelMatrixColumns" in str(error)) == ("header_incomplete", True)


def set_tag(keyword: str, value: Any) -> Change:
    return lambda header: setattr(header, keyword, value)


def drop_tag(keyword: str) -> Change:
    return lambda header: delattr(header, keyword)


def set_syntax(syntax: str) -> Change:
    return lambda header: setattr(header.file_meta, "TransferSyntaxUID", syntax)


def set_spacing(value: Any) -> Change:
    return lambda header: setattr(spacing_of(header), "PixelSpacing", value)


def set_icc(profile: bytes) -> Change:
    return lambda header: setattr(header.OpticalPathSequence[0], "ICCProfile", profile)


def _lab_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


@pytest.mark.parametrize(
    ("change", "code", "advice"),
    [
        (drop_tag("Rows"), "header_incomplete", "pathology-worker ingest"),
        (drop_tag("ImagedVolumeWidth"), "header_incomplete", "pathology-worker ingest"),
        (set_tag("Rows", 0), "tile_size_unusable", "pathology-worker ingest"),
        (set_tag("TotalPixelMatrixRows", 0), "tile_size_unusable", "pathology-worker ingest"),
        (lambda header: header.update({"Rows": 20_000, "Columns": 20_000}), "tile_size_unusable", "smaller"),
        (set_tag("NumberOfFrames", 129), "frames_missing", "where 130 belong"),
        (set_tag("PhotometricInterpretation", "MONOCHROME2"), "colours_unsupported", "bright-field"),
        (set_tag("PhotometricInterpretation", "PALETTE COLOR"), "colours_unsupported", "bright-field"),
        (set_tag("SamplesPerPixel", 1), "colours_unsupported", "bright-field"),
        (set_tag("BitsStored", 12), "colours_unsupported", "8 bits"),
        (set_syntax(MPEG2MPML), "compression_unsupported", "export it as JPEG"),
        (set_syntax(JPEGExtended12Bit + ".9"), "compression_unsupported", "pathology-worker ingest"),
        (set_syntax(ExplicitVRBigEndian), "compression_unsupported", "pathology-worker ingest"),
        (drop_tag("SharedFunctionalGroupsSequence"), "mpp_missing", "parameter mpp"),
        (set_spacing([0.0, 0.0]), "pixel_size_implausible", "--mpp"),
        (
            set_spacing([0.000569, 0.000438]),
            "pixel_size_implausible",
            "0.438 micrometres wide and 0.569",
        ),
        (set_spacing([0.499, 0.499]), "pixel_size_implausible", "DICOM wants millimetres"),
        (set_tag("NumberOfOpticalPaths", 2), "several_optical_paths", "export one of them"),
        (set_icc(_lab_profile()), "icc_profile_wrong", "pathology-worker ingest"),
    ],
)
def test_what_is_refused_has_a_code_and_says_what_to_do(
    change: Change, code: str, advice: str, header: Dataset
) -> None:
    change(header)
    if code == "several_optical_paths":
        header.NumberOfFrames = 2 * header.NumberOfFrames
    error = refusal(header)
    assert (error.code, advice in str(error)) == (code, True), error


def test_pixels_that_a_scanner_measured_to_be_almost_square_pass(header: Any) -> None:
    set_spacing([0.000455, 0.000456])(header)
    assert check_slide([header], {}) == ()


def test_a_pixel_size_in_the_request_stands_in_for_a_missing_or_wrong_one(header: Any) -> None:
    for wrong in ([0.499, 0.499], [0.000569, 0.000438]):
        set_spacing(wrong)(header)
        assert check_slide([header], {"mpp": 0.5}) == ()
    del header.SharedFunctionalGroupsSequence
    assert mpp_of(header) is None
    assert check_slide([header], {"mpp": 0.5}) == ()


def test_the_modes_of_the_reference_go_without_a_pixel_size(header: Any) -> None:
    del header.SharedFunctionalGroupsSequence
    assert check_slide([header], {"reference": "heatmap"}) == ()


def test_levels_in_several_frames_of_reference_do_not_belong_together(header: Any) -> None:
    other = header_of(real_volume())
    other.FrameOfReferenceUID = generate_uid()
    error = refusal(header, other)
    assert (error.code, "2 frames of reference" in str(error)) == ("frame_of_reference_differs", True)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (drop_tag("FrameOfReferenceUID"), FRAME_OF_REFERENCE_MISSING),
        (drop_tag("OpticalPathSequence"), ICC_MISSING),
        (set_icc(b"no profile at all"), ICC_UNREADABLE),
    ],
)
def test_what_is_unusual_and_harmless_is_noted(change: Change, note: str, header: Dataset) -> None:
    change(header)
    assert check_slide([header], {}) == (note,)


def test_the_number_of_frames_counts_planes_and_paths(header: Any) -> None:
    assert expected_frames(header) == 130
    header.NumberOfOpticalPaths, header.TotalPixelMatrixFocalPlanes = 2, 3
    assert expected_frames(header) == 780


PARTS = (60, 40, 30)
"""Frames of the parts of a level."""


def parts_of(header: Any, *numbers: int, total: int | None = None) -> list[Dataset]:
    """Return the headers of some parts, by their number from 1, of a level with holes."""
    parts = []
    for number in numbers:
        part: Any = copy.deepcopy(header)
        part.DimensionOrganizationType = "TILED_SPARSE"
        part.ConcatenationUID, part.InConcatenationNumber = "1.2.3", number
        part.ConcatenationFrameOffsetNumber = sum(PARTS[: number - 1])
        part.NumberOfFrames = PARTS[number - 1]
        if total is not None:
            part.InConcatenationTotalNumber = total
        parts.append(part)
    return parts


@pytest.mark.parametrize("total", [None, 3])
def test_parts_of_a_level_that_are_all_there_pass_in_any_order(total: int | None, header: Any) -> None:
    assert check_slide(parts_of(header, 3, 1, 2, total=total), {}) == ()


@pytest.mark.parametrize(
    ("stored", "total", "there"),
    [((2, 3), None, "2 of 3"), ((1, 3), None, "2 of 3"), ((1, 2), 3, "2 of 3"), ((1, 2, 2), None, "3 of 3")],
    ids=["the first", "one in the middle", "the last, of a known number", "one there twice"],
)
def test_a_missing_part_shows_in_the_numbers_of_the_others(
    stored: tuple[int, ...], total: int | None, there: str, header: Any
) -> None:
    error = refusal(*parts_of(header, *stored, total=total))
    assert (error.code, f"{there} are there" in str(error)) == ("frames_missing", True), error


def test_parts_without_numbers_show_a_gap_by_where_they_begin(header: Any) -> None:
    parts = parts_of(header, 1, 3)
    for part in parts:
        del part.InConcatenationNumber
    assert refusal(*parts).code == "frames_missing"


def test_parts_that_are_all_there_and_do_not_say_where_each_begins_are_not_called_missing(
    header: Any,
) -> None:
    parts = parts_of(header, 1, 2, 3, total=3)
    for part in parts:
        del part.ConcatenationFrameOffsetNumber
    error = refusal(*parts)
    assert (error.code, "do not say where each begins" in str(error)) == ("header_incomplete", True), error


def test_a_header_that_is_none_says_so() -> None:
    with pytest.raises(SlideError, match="is no DICOM file"):
        read_header(io.BytesIO(b"MZ" * 500))


def test_a_header_ends_before_megabytes_about_single_frames(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(real_volume())
    dataset.PerFrameFunctionalGroupsSequence = [Dataset() for _ in range(130)]
    path = tmp_path / "sparse.dcm"
    dataset.save_as(path)
    assert "PerFrameFunctionalGroupsSequence" not in header_of(path)
