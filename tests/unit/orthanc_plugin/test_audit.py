# SPDX-License-Identifier: AGPL-3.0-or-later
"""The audit: one line each, appended, readable by its owner only; a sink that fails holds nobody up."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orthanc_plugin.audit import FILE_NAME, FileAudit, SyslogAudit, open_audit
from orthanc_plugin.errors import SettingsError
from orthanc_plugin.queue.values import Event

EVENT = Event(1.5, "withdrawn", "alice", "wrong\nslide")


def test_every_event_is_one_line_of_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    first = FileAudit(path, print)
    first.write(EVENT, replace(EVENT, event="second"), request_id="r", series="s", user="alice")
    FileAudit(path, print).write(replace(EVENT, event="third"), request_id="r", series="s")
    lines = path.read_text("ascii").splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["withdrawn", "second", "third"]
    assert json.loads(lines[0]) == {
        "at": 1.5,
        "event": "withdrawn",
        "by": "alice",
        "request_id": "r",
        "series": "s",
        "detail": "wrong\nslide",
        "user": "alice",
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_was_rotated_away_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    rotated = tmp_path / "audit.log.1"
    times = [0.0, 0.9, 1.0]
    audit = FileAudit(path, print, lambda: times.pop(0))
    audit.write(EVENT)
    path.rename(rotated)
    audit.write(EVENT)
    audit.write(EVENT)
    audit.close()
    assert len(rotated.read_text("ascii").splitlines()) == 2
    assert len(path.read_text("ascii").splitlines()) == 1


def test_a_file_that_cannot_be_closed_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, warnings = tmp_path / "audit.log", list[str]()
    times = [0.0, 1.0, 1.5]
    audit, really_close = FileAudit(path, warnings.append, lambda: times.pop(0)), os.close

    def close(descriptor: int) -> None:
        really_close(descriptor)
        monkeypatch.undo()
        raise OSError(errno.EIO, "Input/output error")

    audit.write(EVENT)
    monkeypatch.setattr(os, "close", close)
    audit.write(EVENT)
    audit.write(EVENT)
    audit.close()
    assert "may have lost lines" in warnings[0]
    assert len(path.read_text("ascii").splitlines()) == 3


def test_lines_that_come_while_another_thread_writes_are_one_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit, really_write = FileAudit(tmp_path / "audit.log", print), os.write
    begun, go_on, writes = threading.Event(), threading.Event(), list[bytes]()

    def write(descriptor: int, data: bytes) -> int:
        writes.append(data)
        begun.set()
        go_on.wait(5)
        return really_write(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(audit.write, EVENT)]
        begun.wait(5)
        calls += [pool.submit(audit.write, EVENT, EVENT) for _ in range(3)]
        while len(audit._waiting) < 3:
            time.sleep(0.001)
        go_on.set()
        for call in calls:
            call.result(5)
    audit.close()
    assert [data.count(b"\n") for data in writes] == [1, 6]


def test_lines_of_many_threads_are_all_there_when_their_writers_go_on(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    audit = FileAudit(path, print)

    def write(number: int) -> bool:
        audit.write(EVENT, request_id=f"request-{number}")
        return f'request-{number}"' in path.read_text("ascii")

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(write, range(200)))
    audit.close()
    assert len(path.read_text("ascii").splitlines()) == 200


def test_a_sink_that_fails_says_so_with_the_line(tmp_path: Path) -> None:
    warnings: list[str] = []
    FileAudit(tmp_path / "missing" / "audit.log", warnings.append).write(EVENT)
    assert "withdrawn" in warnings[0]


def test_without_a_setting_the_file_lies_in_the_storage_folder(tmp_path: Path) -> None:
    open_audit(None, str(tmp_path), print).write(EVENT)
    assert (tmp_path / FILE_NAME).exists()


@pytest.mark.parametrize("missing", ["missing/audit.log", "file/audit.log", "folder", "pipe"])
def test_a_setting_that_names_what_is_no_file_is_refused_by_its_name(tmp_path: Path, missing: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SettingsError, match=r"Pathology\.Audit names a file"):
        open_audit(str(tmp_path / missing), str(tmp_path), print)


def test_a_setting_that_names_a_file_on_a_disk_that_is_mounted_to_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: Any) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(SettingsError, match="Read-only file system"):
        open_audit(str(tmp_path / "audit.log"), str(tmp_path), print)


def test_a_full_disk_does_not_keep_orthanc_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    warnings: list[str] = []
    open_audit(str(tmp_path / "audit.log"), str(tmp_path), warnings.append).write(EVENT)
    assert "No space left on device" in warnings[0]


@pytest.fixture
def no_handlers() -> Iterator[None]:
    """Leave no handler on the logger of the syslog."""
    yield
    logger = logging.getLogger("orthanc-pathology-audit")
    for handler in list(logger.handlers):
        handler.close()
        logger.removeHandler(handler)


@pytest.mark.usefixtures("no_handlers")
def test_where_there_is_no_syslog_the_line_is_in_orthancs_log_until_there_is_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    address, warnings = str(tmp_path / "log"), list[str]()
    audit = SyslogAudit(warnings.append, address)
    audit.write(EVENT, request_id="r")
    assert 'could not write {"at":1.5,"event":"withdrawn"' in warnings[0]
    assert capfd.readouterr().err == ""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(address)
        server.settimeout(5)
        audit.write(EVENT, request_id="later")
        assert "later" in server.recv(4096).decode()
    assert len(warnings) == 1


@pytest.mark.usefixtures("no_handlers")
def test_syslog_is_a_word_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert isinstance(open_audit("syslog", str(tmp_path), print), SyslogAudit)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_handlers")
def test_syslog_gets_the_line(tmp_path: Path) -> None:
    address = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(address)
        server.settimeout(5)
        SyslogAudit(print, address).write(EVENT, request_id="r")
        line = server.recv(4096).decode()
    assert 'orthanc-pathology: {"at":1.5,"event":"withdrawn"' in line


def test_a_line_that_a_full_disk_cut_off_spoils_none_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, warnings = tmp_path / "audit.log", list[str]()
    audit, really_write = FileAudit(path, warnings.append), os.write
    room = [10, 0]

    def write(descriptor: int, data: bytes) -> int:
        left = room.pop(0) if room else len(data)
        if left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return really_write(descriptor, data[:left])

    monkeypatch.setattr(os, "write", write)
    audit.write(EVENT, request_id="cut-off")
    audit.write(EVENT, request_id="whole")
    assert "cut-off" in warnings[0]
    assert json.loads(path.read_text().splitlines()[1])["request_id"] == "whole"
