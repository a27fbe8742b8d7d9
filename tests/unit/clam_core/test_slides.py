# SPDX-License-Identifier: Apache-2.0
"""Slides: levels, spacing, identity and regions, whoever reads them."""

import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import generate_frames
from pydicom.uid import generate_uid
from wsidicom import WsiDicom

from clam_core.errors import ClamCoreError, NoVolumeError, PyramidsError, SlideError
from clam_core.slides import (
    WSIDICOM_ERRORS,
    Level,
    OpenSlideSlide,
    Slide,
    SlideIdentity,
    WsiDicomSlide,
    best_level_for_downsample,
    open_slide,
    strips,
    thumbnail,
)
from clam_core.slides.slide import container_name, pyramid
from tests.support.core_fakes import ArraySlide, glass_with_tissue
from tests.support.dicom_files import volume_file
from tests.support.odd_dicom import COLUMNS, ENCODINGS, ROWS, SPARSE_ORDER, TILE, tiles, tissue, write_slide
from tests.support.shared_data import shared_path

REAL = {
    "svs": ("slides/CMU-1-Small-Region.svs", OpenSlideSlide),
    "dicom folder": ("slides/dicom-cmu-1-small-region", WsiDicomSlide),
}


@pytest.fixture(params=REAL)
def real(request: pytest.FixtureRequest) -> Iterator[Slide]:
    path, reader = REAL[request.param]
    with open_slide(shared_path(path)) as slide:
        assert isinstance(slide, reader)
        yield slide


def test_tells_size_and_spacing(real: Any) -> None:
    assert real.levels == (Level(2220, 2967, (1.0, 1.0)),)
    assert real.mpp == (0.499, 0.499)


def test_region_is_rgb_of_the_size_asked_for(real: Any) -> None:
    region = real.read_region((100, 200), 0, (64, 48))
    assert region.shape == (48, 64, 3)
    assert region.dtype == np.uint8


@pytest.mark.parametrize("corner", [(-30, -20), (2200, 2950)])
def test_outside_of_the_slide_is_white(real: Any, corner: Any) -> None:
    region = real.read_region(corner, 0, (60, 60))
    outside = region[:20, :30] if corner[0] < 0 else region[17:, 20:]
    inside = region[20:, 30:] if corner[0] < 0 else region[:17, :20]
    assert (outside == 255).all()
    assert not (inside == 255).all()


def test_region_far_outside_is_all_white(real: Any) -> None:
    assert (real.read_region((9000, 9000), 0, (16, 8)) == 255).all()


def test_region_next_to_the_edge_equals_the_same_pixels_read_from_inside(real: Any) -> None:
    inside = real.read_region((0, 0), 0, (40, 40))
    across = real.read_region((-10, -10), 0, (50, 50))
    assert np.array_equal(across[10:, 10:], inside)


def test_reading_from_several_threads_gives_what_one_thread_gives(real: Any) -> None:
    corners = [(x, y) for x in range(0, 2200, 300) for y in range(0, 2900, 300)]
    alone = [real.read_region(corner, 0, (256, 256)) for corner in corners]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda corner: real.read_region(corner, 0, (256, 256)), corners))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_threads_that_decode_at_once_each_get_their_own_frame(encoding: str, tmp_path: Path) -> None:
    files = write_slide(tmp_path, encoding=encoding)
    frames = list(stored_frames(files[0])) * 20
    interval = sys.getswitchinterval()
    with WsiDicomSlide.open(files) as slide, ThreadPoolExecutor(8) as pool:
        decode = slide._images[0].decoder.decode
        alone = [decode(frame) for frame in frames]
        sys.setswitchinterval(1e-6)
        try:
            together = list(pool.map(decode, frames))
        finally:
            sys.setswitchinterval(interval)
    np.testing.assert_array_equal(together, alone)


def stored_frames(file: Path) -> Iterator[bytes]:
    """Yield the frames of a file, as they are stored."""
    dataset = pydicom.dcmread(file)
    count = int(dataset.NumberOfFrames)
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        yield from generate_frames(dataset.PixelData, number_of_frames=count)
        return
    size = len(dataset.PixelData) // count
    yield from (dataset.PixelData[number * size : (number + 1) * size] for number in range(count))


def test_both_readers_show_the_same_picture() -> None:
    path = shared_path("slides/dicom-cmu-1-small-region")
    with OpenSlideSlide(path) as one, WsiDicomSlide.open(path) as other:
        assert one.levels == other.levels
        assert one.identity == other.identity
        a, b = (slide.read_region((700, 900), 0, (512, 512)).astype(int) for slide in (one, other))
    assert np.abs(a - b).mean() < 1


def test_dicom_slide_is_known_by_its_uids() -> None:
    with open_slide(shared_path("slides/dicom-cmu-1-small-region")) as slide:
        identity = slide.identity
    assert identity.series_instance_uid == "1.2.826.0.1.3680043.8.498.1520867695093312154026912018084262092"
    assert identity.study_instance_uid
    assert identity.frame_of_reference_uid
    assert identity.container_id is None, "the tag only says Unknown"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.svs", b"II*\0 cut off", r"a\.svs is damaged or incomplete: compare its size .* copy it again"),
        ("a.svs", b"", r"a\.svs is empty: compare its size"),
    ],
)
def test_a_slide_file_that_is_cut_off_is_called_damaged(
    name: str, content: bytes, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SlideError, match=sentence):
        open_slide(tmp_path / name)


def cut_within_header(level: Path) -> None:
    content = level.read_bytes()
    level.write_bytes(content[: content.index(b"\x48\x00\x06\x00UL")])


def test_a_dicom_file_that_is_cut_off_within_its_header_is_called_damaged(tmp_path: Path) -> None:
    (level,) = write_slide(tmp_path, encoding="jpeg")
    cut_within_header(level)
    for path in (level, tmp_path):
        with pytest.raises(SlideError, match=rf"header of {level.name} is damaged .* copy it again"):
            open_slide(path)


def test_a_folder_with_a_damaged_level_is_not_read_without_that_level(tmp_path: Path) -> None:
    (level,) = write_slide(tmp_path, encoding="jpeg")
    damaged = Path(shutil.copy(level, tmp_path / "other.dcm"))
    cut_within_header(damaged)
    with pytest.raises(SlideError, match=r"header of other\.dcm is damaged"):
        open_slide(tmp_path)


def test_a_dicom_file_nested_deeper_than_python_goes_is_called_damaged(tmp_path: Path) -> None:
    (level,) = write_slide(tmp_path, encoding="jpeg")
    cut_within_header(level)
    sequence, item = b"\x48\x00\x05\x01SQ\0\0\xff\xff\xff\xff", b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    level.write_bytes(level.read_bytes() + (sequence + item) * 2 * sys.getrecursionlimit())
    with pytest.raises(SlideError, match=rf"header of {level.name} is damaged"):
        open_slide(level)


def test_a_folder_of_several_slide_files_is_refused_by_their_names(tmp_path: Path) -> None:
    for name in ("a.svs", "b.svs"):
        shutil.copy(shared_path("slides/CMU-1-Small-Region.svs"), tmp_path / name)
    with pytest.raises(SlideError, match=r"holds several slides: name one of a\.svs, b\.svs"):
        open_slide(tmp_path)
    (tmp_path / "a.svs").unlink()
    with open_slide(tmp_path) as slide:
        assert slide.levels[0].width == 2220


def test_a_folder_of_two_dicom_series_is_refused(tmp_path: Path) -> None:
    (level,) = write_slide(tmp_path, encoding="jpeg")
    copy = pydicom.dcmread(level)
    copy.SeriesInstanceUID = generate_uid()
    copy.save_as(tmp_path / "other.dcm")
    with pytest.raises(SlideError, match=r"holds several slides.*a folder of their own"):
        open_slide(tmp_path)


def test_single_dicom_file_with_a_container_is_known_by_it() -> None:
    with open_slide(shared_path("slides/dicom-misc/camelyon_thumb_jpeg2000_tiledfull.dcm")) as slide:
        assert slide.identity.label == "GO-1692287590758-1-A-0"


def test_series_with_a_code_that_wsidicom_does_not_model_opens_all_the_same() -> None:
    with open_slide(shared_path("slides/dicom-misc/hd_sm_image_uncompressed.dcm")) as slide:
        assert slide.identity.container_id == "S19-1_A_1_1"


def test_slide_without_spacing_says_so() -> None:
    with open_slide(shared_path("slides/TCGA-CR-7395-01A-01-TS1.svs")) as slide:
        assert slide.mpp is None
        assert len(slide.levels) == 2


@pytest.mark.parametrize(
    "name",
    ["label_only_volume_missing.dcm", "label_as_concatenation_member.dcm", "hd_seg_image_sm_control.dcm"],
)
def test_dicom_without_a_volume_is_refused_with_its_own_error(name: Any) -> None:
    with pytest.raises(NoVolumeError, match="VOLUME"):
        open_slide(shared_path(f"slides/dicom-misc/{name}"))


def test_several_focal_planes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    path = shared_path("slides/dicom-cmu-1-small-region")
    from wsidicom.group.level import BaseLevel

    monkeypatch.setattr(BaseLevel, "focal_planes", property(lambda _: [0.0, 1.0]), raising=False)
    with pytest.raises(SlideError, match="2 focal planes"):
        WsiDicomSlide.open(path)


def test_a_slide_that_is_refused_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    from wsidicom.group.level import BaseLevel

    close, closed = WsiDicom.close, list[WsiDicom]()

    def noted(wsi: WsiDicom) -> None:
        closed.append(wsi)
        close(wsi)

    monkeypatch.setattr(WsiDicom, "close", noted)
    monkeypatch.setattr(BaseLevel, "focal_planes", property(lambda _: [0.0, 1.0]), raising=False)
    with pytest.raises(SlideError, match="2 focal planes"):
        WsiDicomSlide.open(shared_path("slides/dicom-cmu-1-small-region"))
    assert len(closed) == 1


def test_two_pieces_of_glass_in_one_series_are_refused(tmp_path: Path) -> None:
    shutil.copy(volume_file(), tmp_path / "here.dcm")
    dataset = pydicom.dcmread(volume_file())
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.TotalPixelMatrixOriginSequence[0].XOffsetInSlideCoordinateSystem += 10
    dataset.save_as(tmp_path / "ten-millimetres-beside.dcm")
    with pytest.raises(PyramidsError, match="holds 2 pyramids; store each of them as a series of its own"):
        open_slide(tmp_path)


def twins(folder: Path) -> list[Path]:
    """Write two images of one size, of which one shows the other's negative, into one series."""
    encode = ENCODINGS["jpeg"].encode
    negative = [encode(np.ascontiguousarray(255 - tile)) for tile in tiles(tissue())]
    (one,), (other,) = write_slide(folder / "one"), write_slide(folder / "other", frames=negative)
    first, second = pydicom.dcmread(one), pydicom.dcmread(other)
    second.StudyInstanceUID, second.SeriesInstanceUID = first.StudyInstanceUID, first.SeriesInstanceUID
    second.save_as(other)
    return [one, other]


@pytest.mark.parametrize("order", [1, -1])
def test_which_of_two_images_of_one_size_is_meant_does_not_hang_on_their_order(
    order: int, tmp_path: Path
) -> None:
    with pytest.raises(PyramidsError, match="2 images of 430 x 250 pixels"):
        WsiDicomSlide.open(twins(tmp_path)[::order])


def test_a_level_in_two_images_that_no_concatenation_joins_is_refused_not_half_shown(tmp_path: Path) -> None:
    files = write_slide(tmp_path, parts=2, sparse=True)
    for path in files:
        dataset = pydicom.dcmread(path)
        del dataset.ConcatenationUID, dataset.SOPInstanceUIDOfConcatenationSource
        dataset.save_as(path)
    with pytest.raises(PyramidsError, match="nothing says that they are parts of one"):
        WsiDicomSlide.open(files)


def test_a_sparse_slide_tells_which_tiles_it_has(tmp_path: Path) -> None:
    with WsiDicomSlide.open(write_slide(tmp_path, sparse=True, parts=2)) as slide:
        corners = [(column * TILE, row * TILE) for row in range(ROWS) for column in range(COLUMNS)]
        stored = [number for number, at in enumerate(corners) if slide.is_stored(at, 0, (TILE, TILE))]
        assert stored == sorted(SPARSE_ORDER)
        assert slide.is_stored((-10, TILE - 1), 0, (20, 2)), "the tile above has it"
        assert not slide.is_stored((2 * TILE, 0), 0, (TILE, TILE))


def test_a_full_slide_has_every_tile(real: Any) -> None:
    if isinstance(real, WsiDicomSlide):
        assert real.is_stored((2200, 2950), 0, (500, 500))


@pytest.mark.parametrize("text", [None, "", "0", "-0.5", "nan", "inf", "0,25 um"])
def test_a_pixel_size_that_is_no_size_counts_as_none(text: str | None) -> None:
    from clam_core.slides.openslide_slide import _mpp

    assert (_mpp("0.25", text), _mpp(text, "0.25"), _mpp("0.25", "0.5")) == (None, None, (0.25, 0.5))


def test_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="check the path"):
        open_slide(tmp_path / "nothing.svs")


def test_file_that_is_no_slide_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no slide")
    with pytest.raises(SlideError, match="not a slide"):
        open_slide(tmp_path / "notes.txt")


def test_empty_folder_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SlideError):
        open_slide(tmp_path)


def test_truncated_slide_is_a_sentence(tmp_path: Path) -> None:
    whole = shared_path("slides/CMU-1-Small-Region.svs").read_bytes()
    (tmp_path / "cut.svs").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ClamCoreError), open_slide(tmp_path / "cut.svs") as slide:
        slide.read_region((0, 0), 0, (2220, 2967))


def test_truncated_dicom_is_a_sentence(tmp_path: Path) -> None:
    folder = shared_path("slides/dicom-cmu-1-small-region")
    volume = max(folder.iterdir(), key=lambda file: file.stat().st_size)
    (tmp_path / "cut.dcm").write_bytes(volume.read_bytes()[:400_000])
    with pytest.raises(ClamCoreError), open_slide(tmp_path / "cut.dcm") as slide:
        slide.read_region((0, 0), 0, (2220, 2967))


def test_folder_with_other_files_beside_the_dicom_opens(tmp_path: Path) -> None:
    for file in shared_path("slides/dicom-cmu-1-small-region").iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "README.txt").write_text("beside")
    with open_slide(tmp_path) as slide:
        assert slide.levels[0].width == 2220


def test_transparent_pixels_are_white() -> None:
    from clam_core.slides.openslide_slide import _on_white

    rgba = np.zeros((2, 2, 4), dtype=np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    rgba[0, 1] = (0, 0, 0, 128)
    assert _on_white(rgba).tolist() == [[[10, 20, 30], [127, 127, 127]], [[255] * 3, [255] * 3]]


def test_best_level_is_the_smallest_that_is_not_coarser_than_asked() -> None:
    levels = pyramid([(8200, 7190), (2050, 1797), (512, 449), (128, 112)])
    assert best_level_for_downsample(levels, 64) == 2, "the last is 64.13"
    assert best_level_for_downsample(levels, 65) == 3
    assert best_level_for_downsample(levels, 0.5) == 0


@pytest.mark.parametrize("text", [None, "", "Unknown"])
def test_container_that_only_fills_the_tag_is_no_name(text: Any) -> None:
    assert container_name(text) is None


def test_identity_prefers_what_stands_on_the_glass() -> None:
    assert SlideIdentity(container_id="S1", name="a.svs", series_instance_uid="1.2").label == "S1"
    assert SlideIdentity(series_instance_uid="1.2").label == "1.2"
    assert SlideIdentity().label == "unnamed slide"


def test_strips_put_together_are_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clam_core.slides.whole_level.STRIP_PIXELS", 300 * 70)
    picture = glass_with_tissue(300, 500)
    slide = ArraySlide(picture)
    assert np.array_equal(np.concatenate([rgb for _, rgb in strips(slide, 0)]), picture)
    assert slide.largest_read <= 300 * 70


def test_shrunk_strips_average_squares() -> None:
    picture = np.zeros((4, 6, 3), dtype=np.uint8)
    picture[:2, :2] = [[[0] * 3, [40] * 3], [[80] * 3, [120] * 3]]
    ((top, rgb),) = strips(ArraySlide(picture), 0, shrink=2)
    assert top == 0
    assert rgb.shape == (2, 3, 3)
    assert rgb[0, 0].tolist() == [60, 60, 60]


@pytest.mark.parametrize(("longest", "size"), [(100, (100, 75)), (1000, (1000, 750)), (5000, (2048, 1536))])
def test_thumbnail_has_the_size_asked_for_and_is_never_enlarged(longest: Any, size: Any) -> None:
    picture = thumbnail(ArraySlide(glass_with_tissue(), levels=3), longest)
    assert (picture.shape[1], picture.shape[0]) == size


def test_thumbnail_shows_the_slide() -> None:
    slide = ArraySlide(glass_with_tissue(), levels=3)
    expected = np.asarray(
        Image.fromarray(glass_with_tissue()).resize((256, 192), Image.Resampling.BOX), dtype=int
    )
    assert np.abs(thumbnail(slide, 256).astype(int) - expected).mean() < 1


def test_paths_are_accepted_as_a_list_of_files() -> None:
    files = sorted(shared_path("slides/dicom-cmu-1-small-region").iterdir())
    with WsiDicomSlide.open([Path(file) for file in files]) as slide:
        assert slide.levels[0].height == 2967


@pytest.mark.parametrize("error", WSIDICOM_ERRORS)
def test_whatever_wsidicom_raises_is_a_slide_error(
    error: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Their constructors all differ; what counts is the type.
    raised = type("Raised", (error,), {"__init__": lambda _: None, "__str__": lambda _: "broken"})

    def refuse(*_: Any, **_options: object) -> None:
        raise raised

    monkeypatch.setattr("clam_core.slides.wsidicom_slide.WsiDicom.open", refuse)
    with pytest.raises(SlideError):
        WsiDicomSlide.open(tmp_path)
