# SPDX-License-Identifier: AGPL-3.0-or-later
"""What lies in Orthanc's storage folder, where Orthanc itself does not read it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orthanc_plugin.slides.stored_file import read_stored

UUID = "ae3edfc9-b951-459b-87b8-c5e420bbeebd"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return where the file of `UUID` lies."""
    folder = tmp_path / "ae" / "3e"
    folder.mkdir(parents=True)
    return folder / UUID


def test_what_is_left_of_a_file_is_read_whatever_it_is(tmp_path: Path, place: Path) -> None:
    place.write_bytes(b'{"schema":1,"requ')
    assert read_stored(str(tmp_path), UUID) == b'{"schema":1,"requ'


def test_nothing_is_left_of_one_that_is_not_there(tmp_path: Path) -> None:
    assert read_stored(str(tmp_path), UUID) == b""


def test_neither_links_nor_pipes_nor_folders_are_followed(tmp_path: Path, place: Path) -> None:
    place.symlink_to("/etc/hostname")
    assert read_stored(str(tmp_path), UUID) == b""
    place.unlink()
    os.mkfifo(place)
    assert read_stored(str(tmp_path), UUID) == b""
    place.unlink()
    place.mkdir()
    assert read_stored(str(tmp_path), UUID) == b""
