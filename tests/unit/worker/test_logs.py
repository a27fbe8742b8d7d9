# SPDX-License-Identifier: Apache-2.0
"""The log: readable, parseable, with the request's id, and without secrets or patient data."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys

import pytest

from tests.support.scripted_server import Fault, ScriptedServer
from tests.unit.worker.conftest import PASSWORD, Rig
from worker import cli
from worker.errors import UnauthorizedError
from worker.logs import configure, request_context
from worker.serving.daemon import Mode
from worker.settings import LogFormat

LOG = logging.getLogger("worker.test")


def logged(log_format: LogFormat, secrets: tuple[str, ...] = ()) -> io.StringIO:
    stream = io.StringIO()
    configure(log_format, "DEBUG", secrets, stream)
    return stream


def test_a_line_for_people_has_time_level_and_the_requests_id() -> None:
    stream = logged(LogFormat.TEXT)
    with request_context("6f1c0a5e5b0d4f0e8a3c9d2f7b1e4a60"):
        LOG.info("Claimed by %s.", "lab-1")
    assert stream.getvalue().rstrip().endswith("INFO    [6f1c0a5e] Claimed by lab-1.")


def test_a_line_for_machines_is_one_json_object() -> None:
    stream = logged(LogFormat.JSON)
    with request_context("6f1c"):
        LOG.warning("Two\nlines")
    line = json.loads(stream.getvalue())
    assert stream.getvalue().count("\n") == 1
    assert (line["level"], line["request_id"], line["message"]) == ("WARNING", "6f1c", "Two\nlines")
    assert line["time"].endswith("Z")


def test_outside_a_request_there_is_no_id() -> None:
    stream = logged(LogFormat.JSON)
    LOG.info("Started.")
    assert json.loads(stream.getvalue())["request_id"] == "-"


@pytest.mark.parametrize("log_format", list(LogFormat))
def test_a_secret_never_reaches_the_log(log_format: LogFormat) -> None:
    stream = logged(log_format, ("canary-1",))
    LOG.info("Header: %s", "Basic canary-1")
    assert "canary-1" not in stream.getvalue()


def test_a_foreign_exception_is_logged_by_type_and_place_without_its_text() -> None:
    stream = logged(LogFormat.TEXT)
    try:
        dict[str, str]()["PatientName SMITH^JOHN"]
    except KeyError:
        LOG.exception("It failed.")
    assert "SMITH" not in stream.getvalue()
    assert "builtins.KeyError at test_a_foreign_exception" in stream.getvalue()


@pytest.mark.parametrize("log_format", list(LogFormat))
def test_a_whole_run_with_faults_logs_no_password_and_no_token(
    rig: Rig, server: ScriptedServer, log_format: LogFormat
) -> None:
    stream = logged(log_format, rig.settings.secrets())
    server.misbehave("/claim", Fault.DROP_AFTER, Fault.STATUS_500)
    server.misbehave("/complete-request/", Fault.STATUS_500)
    server.add_request(patient="SMITH^JOHN", model="test-model")
    rig.daemon().run(Mode.ONCE)
    tokens = {call.json["token"] for call in server.calls_to("/claim")}
    text = stream.getvalue()
    assert "arrived" in text
    for canary in (PASSWORD, "SMITH", *tokens):
        assert canary not in text


def test_a_wrong_password_is_a_sentence_without_the_password(
    rig: Rig, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = logged(LogFormat.TEXT, rig.settings.secrets())
    monkeypatch.setattr(server, "answer", lambda call: (401, {}, {}))
    with pytest.raises(UnauthorizedError, match="does not accept the user or the password"):
        rig.daemon().run(Mode.ONCE)
    assert PASSWORD not in stream.getvalue()


def test_warnings_of_libraries_that_quote_tags_reach_neither_log_nor_terminal() -> None:
    program = (
        "import logging, warnings; from worker.logs import configure; from worker.settings import LogFormat;"
        "configure(LogFormat.TEXT, 'DEBUG');"
        "warnings.warn(\"Invalid value for VR PN: 'SMITH^JOHN'\");"
        "logging.getLogger('pydicom').error('SMITH^JOHN'); logging.info('done')"
    )
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", program], capture_output=True, text=True, check=True
    )
    assert "done" in done.stderr
    assert "SMITH" not in done.stdout + done.stderr


def test_a_fault_of_the_workers_own_ends_the_process_without_quoting_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def surprise(*_: object) -> None:
        raise RuntimeError("PatientName SMITH^JOHN")

    monkeypatch.setattr("worker.api.client.PluginClient.list_requests", surprise)
    monkeypatch.setenv("SUBMIT_USER", "alice")
    monkeypatch.setenv("SUBMIT_PASSWORD", "x")
    assert cli.main(["status"]) == 3
    printed = capsys.readouterr().err
    assert "fault of its own" in printed
    assert "SMITH" not in printed
