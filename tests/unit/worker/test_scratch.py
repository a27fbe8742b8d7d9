# SPDX-License-Identifier: Apache-2.0
"""Slides that are downloaded whole lie where nobody else looks, and the next start removes what was left."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from tests.support.odd_dicom import write_slide
from tests.support.ranges_server import RangesServer
from tests.support.slide_reading import settings_for
from worker.api.transport import make_session
from worker.commands.run import run
from worker.errors import ModelError, SettingsError
from worker.processes.lock import hold_worker_id
from worker.scratch import scratch_folder
from worker.settings import Settings
from worker.sources import OrthancDownloadSource

ARGUMENTS = argparse.Namespace(devices=None, once=True, drain_when_empty=False, until_input_ends=False)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A worker whose model is not there: it begins, and ends where it would load it."""
    return settings_for(
        "http://127.0.0.1:9",
        SPOOL_DIR=str(tmp_path / "spool"),
        WORKER_ID="lab-1",
        MODEL_PATH=str(tmp_path / "none"),
    )


@pytest.fixture
def left_behind(settings: Settings) -> Path:
    file = scratch_folder(settings) / "slide-abc" / "image.dcm"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"a patient's header")
    return file


def test_a_download_lies_in_the_workers_own_folder(tmp_path: Path) -> None:
    with RangesServer() as server, make_session(None) as session:
        server.store(write_slide(tmp_path)[0])
        settings = settings_for(server.url, SPOOL_DIR=str(tmp_path / "spool"), WORKER_ID="lab-1")
        with OrthancDownloadSource(settings, session).open(server.claim()):
            (slide,) = (tmp_path / "spool" / "lab-1.scratch").iterdir()
            if os.name == "posix":
                assert [path.stat().st_mode & 0o077 for path in (slide, slide.parent)] == [0, 0]
        assert not slide.exists()


def test_what_a_killed_worker_left_is_removed_when_it_starts_again(
    settings: Settings, left_behind: Path
) -> None:
    with pytest.raises(ModelError):
        run(ARGUMENTS, settings)
    assert not left_behind.exists()


def test_a_worker_that_runs_keeps_its_slide_when_a_second_one_is_turned_away(
    settings: Settings, left_behind: Path
) -> None:
    with hold_worker_id(settings), pytest.raises(SettingsError):
        run(ARGUMENTS, settings)
    assert left_behind.exists()
