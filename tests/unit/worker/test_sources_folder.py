# SPDX-License-Identifier: Apache-2.0
"""Which file in SVS_STORAGE_DIR belongs to a series."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.sources.errors import AmbiguousSlideFileError, NoSlideFileError
from worker.sources.slide_folder import Identifier, find_slide_file, identifiers_of, slide_files

CONTAINER = "ContainerIdentifier"
PATIENT = "PatientID"


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


@pytest.mark.parametrize("name", ["S26-12.svs", "XS26-1.svs", "S26-1a.svs", "S26-1ä.svs"])
def test_an_identifier_inside_a_longer_word_is_another_slide(name: str) -> None:
    with pytest.raises(NoSlideFileError):
        find([name], ContainerIdentifier="S26-1")


def test_the_container_is_asked_before_the_patient() -> None:
    names = ["P7.svs", "S26-1.svs"]
    assert find(names, ContainerIdentifier="S26-1", PatientID="P77") == (
        "S26-1.svs",
        "ContainerIdentifier is the file's name",
    )


def test_two_slides_of_one_patient_are_ambiguous_and_named() -> None:
    with pytest.raises(AmbiguousSlideFileError, match=r"2 files .* \(P77_A\.svs, P77_B\.svs\)"):
        find(["P77_A.svs", "P77_B.svs"], PatientID="P77")


def test_values_that_say_nothing_match_nothing() -> None:
    tags = {
        "ContainerIdentifier": "Unknown",
        "PatientID": "1",
        "AccessionNumber": " ",
        "StudyInstanceUID": "1.2.3",
    }
    assert [item.tag for item in identifiers_of(tags)] == ["StudyInstanceUID"]


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
        match = find_slide_file(
            files, [Identifier(CONTAINER, value), Identifier(PATIENT, "../../etc/passwd")]
        )
    except (NoSlideFileError, AmbiguousSlideFileError):
        return
    assert match.path in files
