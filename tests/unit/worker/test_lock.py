# SPDX-License-Identifier: Apache-2.0
"""Two processes under one worker id would end each other's long polls."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.errors import SettingsError
from worker.processes.lock import hold_worker_id
from worker.settings import Settings
from worker.settings_reading import load_settings


def settings(folder: Path, worker_id: str) -> Settings:
    return load_settings({"SPOOL_DIR": str(folder), "WORKER_ID": worker_id})


def test_a_second_worker_of_the_same_name_is_turned_away_with_the_fix(tmp_path: Path) -> None:
    with (
        hold_worker_id(settings(tmp_path, "lab-1")),
        pytest.raises(SettingsError, match=r"lab-1 already runs.*WORKER_ID of its own"),
        hold_worker_id(settings(tmp_path, "lab-1")),
    ):
        pytest.fail("both held it")


def test_workers_of_other_names_run_side_by_side(tmp_path: Path) -> None:
    with hold_worker_id(settings(tmp_path, "lab-1")), hold_worker_id(settings(tmp_path, "lab-2")):
        pass


def test_the_name_is_free_again_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with hold_worker_id(settings(tmp_path, "lab-1")):
            pass


def test_a_spool_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(SettingsError, match="SPOOL_DIR"),
        hold_worker_id(settings(tmp_path / "file", "lab-1")),
    ):
        pytest.fail("held in a file")
