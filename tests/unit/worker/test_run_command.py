# SPDX-License-Identifier: Apache-2.0
"""``pathology-worker run``: what a person reads where it cannot serve."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from worker import assembly
from worker.commands.run import run
from worker.errors import ServerError, UnauthorizedError
from worker.settings_reading import load_settings

ARGUMENTS = argparse.Namespace(devices=None, once=True, drain_when_empty=False, until_input_ends=False)
WORKER = {"ORTHANC_USER": "lab", "ORTHANC_PASSWORD": "secret"}


@pytest.fixture
def turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise UnauthorizedError("Orthanc does not accept the user.")

    monkeypatch.setattr(assembly, "load_analyzer", refuse)


@pytest.mark.usefixtures("turned_away")
def test_a_worker_that_is_turned_away_names_who_finds_out_why(tmp_path: Path) -> None:
    settings = load_settings({**WORKER, "SPOOL_DIR": str(tmp_path)})
    with pytest.raises(ServerError, match=r"does not accept the user\. `pathology-worker doctor` finds out"):
        run(ARGUMENTS, settings)


@pytest.mark.usefixtures("turned_away")
@pytest.mark.parametrize(("host", "warned"), [("orthanc.example.org", True), ("127.0.0.1", False)])
def test_a_password_that_goes_over_the_network_in_clear_is_warned_of(
    host: str, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = load_settings({**WORKER, "SPOOL_DIR": str(tmp_path), "ORTHANC_URL": f"http://{host}:8042"})
    with pytest.raises(ServerError):
        run(ARGUMENTS, settings)
    assert ("ORTHANC_URL sends the password over plain http" in caplog.text) is warned
