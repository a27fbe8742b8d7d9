# SPDX-License-Identifier: Apache-2.0
"""``pathology-worker run``: what a person reads where it cannot serve."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from worker import assembly
from worker.commands.run import run
from worker.errors import ServerError, UnauthorizedError
from worker.settings_reading import load_settings

ARGUMENTS = argparse.Namespace(devices=None, once=True, drain_when_empty=False, until_input_ends=False)
WORKER = {"ORTHANC_USER": "lab", "ORTHANC_PASSWORD": "secret"}
ROOT = Path(__file__).resolve().parents[3]


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


READS_ALL_INPUT_BESIDE = """
import subprocess, sys
from unittest.mock import Mock
from worker import cli

def load(*_):
    subprocess.run([sys.executable, "-c", "import sys; sys.stdin.read()"], check=True, timeout=10)
    sys.exit(7)

sys.modules["worker.assembly"] = Mock(load_analyzer=load)
sys.exit(cli.main(["run", "--until-input-ends"]))
"""


def test_a_process_beside_a_worker_that_waits_for_the_end_of_its_input_has_no_part_in_that(
    tmp_path: Path,
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", READS_ALL_INPUT_BESIDE],
        env={**os.environ, **WORKER, "SPOOL_DIR": str(tmp_path)},
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as worker:
        assert worker.wait(60) == 7
