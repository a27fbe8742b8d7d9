# SPDX-License-Identifier: Apache-2.0
"""Which file in SVS_STORAGE_DIR belongs to a series."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clam_core.slides.slide import SlideIdentity
from tests.support.shared_data import shared_path
from worker.sources.errors import AmbiguousSlideFileError, NoSlideFileError, SourceError
from worker.sources.slide_folder import (
    Identifier,
    NamelessSlide,
    find_slide_file,
    identifiers_of,
    slide_files,
)

CONTAINER = "ContainerIdentifier"
SERIES = "SeriesInstanceUID"


def find(names: list[str], **values: str) -> tuple[str, str]:
    match = find_slide_file(
        [Path(name) for name in names], [Identifier(tag, value) for tag, value in values.items()]
    )
    return match.path.name, match.rule


def test_an_exact_name_wins_over_a_longer_one() -> None:
    assert find(["S26-1.svs", "S26-1_scan2.svs"], ContainerIdentifier="S26-1") == (
        "S26-1.svs",
        "ContainerIdentifier is the file's name",
    )


def test_an_identifier_between_delimiters_is_found() -> None:
    assert find(["2026-11-22_S26-1_HE.svs"], ContainerIdentifier="S26-1")[1] == (
        "ContainerIdentifier stands in the file's name"
    )


@pytest.mark.parametrize(
    "name",
    ["S26-12.svs", "XS26-1.svs", "S26-1a.svs", "S26-1ä.svs", "S26-1-B.svs", "9-S26-1.svs", "S26-1.2.svs"],
)
def test_an_identifier_inside_a_longer_one_is_another_slide(name: str) -> None:
    with pytest.raises(NoSlideFileError):
        find([name], ContainerIdentifier="S26-1")


def test_the_container_is_asked_before_the_series() -> None:
    names = ["1.2.3.svs", "S26-1.svs"]
    assert find(names, ContainerIdentifier="S26-1", SeriesInstanceUID="1.2.3") == (
        "S26-1.svs",
        "ContainerIdentifier is the file's name",
    )


def test_two_scans_of_one_glass_are_ambiguous_and_their_names_are_kept_to_the_machine() -> None:
    with pytest.raises(
        AmbiguousSlideFileError, match=r"2 files .* match the series' ContainerIdentifier"
    ) as raised:
        find(["P77-1_A.svs", "P77-1_B.svs"], ContainerIdentifier="P77-1")
    assert "P77" not in str(raised.value)


def test_a_damaged_file_is_a_sentence_that_does_not_quote_its_name(tmp_path: Path) -> None:
    path = tmp_path / "SMITH_JOHN.svs"
    path.write_bytes(b"no slide")
    with pytest.raises(SourceError, match="copy it again from the scanner") as raised:
        NamelessSlide(path, SlideIdentity(series_instance_uid="1.2.3"))
    assert "SMITH" not in str(raised.value)


def test_a_slide_from_a_file_is_known_by_what_orthanc_says_of_its_series() -> None:
    identity = SlideIdentity(series_instance_uid="1.2.3", container_id="S26-1")
    with NamelessSlide(shared_path("slides/CMU-1-Small-Region.svs"), identity) as slide:
        assert slide.identity == identity


def test_values_that_say_nothing_match_nothing() -> None:
    tags = {
        "ContainerIdentifier": "Unknown",
        "SpecimenDescriptionSequence": [{"SpecimenIdentifier": " "}],
        "SOPInstanceUID": "1",
        "SeriesInstanceUID": "1.2.3",
    }
    assert [item.tag for item in identifiers_of(tags)] == ["SeriesInstanceUID"]


@pytest.mark.parametrize("tag", ["StudyInstanceUID", "AccessionNumber", "PatientID"])
def test_what_every_block_of_a_case_shares_names_no_file(tag: str) -> None:
    assert identifiers_of({"ContainerIdentifier": "S26-100-A1", tag: "P-4711"}) == (
        Identifier(CONTAINER, "S26-100-A1"),
    )


def test_a_short_identifier_may_be_a_name_and_not_stand_in_one() -> None:
    assert find(["S25_001.svs", "001.svs"], ContainerIdentifier="001")[0] == "001.svs"
    with pytest.raises(NoSlideFileError):
        find(["S25_001.svs"], ContainerIdentifier="001")


def test_the_specimens_identifier_is_read_from_its_sequence() -> None:
    tags = {"SpecimenDescriptionSequence": [{"SpecimenIdentifier": "S26-1-A"}]}
    assert identifiers_of(tags) == (Identifier("SpecimenIdentifier", "S26-1-A"),)


def test_only_slide_files_inside_the_folder_are_looked_at(tmp_path: Path) -> None:
    inside = tmp_path / "slides" / "deep"
    inside.mkdir(parents=True)
    outside = tmp_path / "secret.svs"
    outside.touch()
    (inside / "a.SVS").touch()
    (inside / "notes.txt").touch()
    (inside / "link.svs").symlink_to(outside)
    assert [path.name for path in slide_files(tmp_path / "slides")] == ["a.SVS"]


@given(st.text(min_size=3, max_size=30))
def test_no_identifier_reaches_a_file_that_is_not_listed(value: str) -> None:
    files = [Path("/slides/a.svs"), Path("/slides/b.svs")]
    try:
        match = find_slide_file(files, [Identifier(CONTAINER, value), Identifier(SERIES, "../../etc/passwd")])
    except (NoSlideFileError, AmbiguousSlideFileError):
        return
    assert match.path in files
