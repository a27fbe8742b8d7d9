# SPDX-License-Identifier: Apache-2.0
"""Whether a slide can be stored, asked of the real converter before any Orthanc runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.errors import DemoError
from demo.slide import checked
from tests.support.shared_data import shared_path
from worker.demo_slide import DemoSlide
from worker.ingest.check import check_slide
from worker.ingest.environment import converter_python
from worker.ingest.errors import IngestError
from worker.ingest.identity import SlideOptions
from worker.ingest.progress import silent

pytestmark = pytest.mark.slow

CMU = "slides/CMU-1-Small-Region.svs"
WITHOUT_MPP = "slides/TCGA-CR-7395-01A-01-TS1.svs"
DICOM = "slides/dicom-cmu-1-small-region"


@pytest.fixture(scope="module")
def converter() -> Path:
    """The converter's environment, installed by the first test that needs it."""
    try:
        return converter_python(None, silent)
    except IngestError as error:
        pytest.skip(str(error))


def no_converter() -> Path:
    raise AssertionError("what is DICOM already needs no converter")


def test_a_slide_that_says_its_resolution_passes(converter: Path) -> None:
    check_slide(shared_path(CMU), SlideOptions(), lambda: converter)


def test_a_slide_without_resolution_passes_only_with_the_users(converter: Path) -> None:
    slide = shared_path(WITHOUT_MPP)
    with pytest.raises(IngestError, match="does not say its resolution") as refused:
        check_slide(slide, SlideOptions(), lambda: converter)
    assert refused.value.code == "no_mpp"
    check_slide(slide, SlideOptions(mpp=0.5), lambda: converter)


def test_what_is_no_slide_is_refused(converter: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a slide")
    with pytest.raises(IngestError, match="of no known slide format"):
        check_slide(tmp_path / "notes.txt", SlideOptions(), lambda: converter)
    with pytest.raises(IngestError, match="a folder without DICOM files"):
        check_slide(tmp_path, SlideOptions(), lambda: converter)


def test_dicom_is_opened_as_it_is() -> None:
    slide = shared_path(DICOM)
    check_slide(slide, SlideOptions(), no_converter)
    with pytest.raises(IngestError, match="is DICOM already"):
        check_slide(slide, SlideOptions(mpp=0.5), no_converter)


@pytest.mark.usefixtures("converter")
def test_the_demo_asks_for_the_resolution_in_its_own_words() -> None:
    slide = DemoSlide(shared_path(WITHOUT_MPP), "your slide")
    with pytest.raises(DemoError, match=r"MPP=0\.25 for a 40x scan, MPP=0\.5 for 20x") as refused:
        checked(slide, lambda _text: None)
    assert "--mpp" not in str(refused.value)
