# SPDX-License-Identifier: Apache-2.0
"""A worker that is killed in the middle of a slide is gone on from by the next one on the same machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.scripted_server import ScriptedRequest, ScriptedServer
from tests.support.shared_data import shared_path

REQUEST_ID = "a" * 32


def worker(
    server: ScriptedServer, folder: Path, name: str, *, cache: str, stop_at: int
) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "ORTHANC_URL": server.url,
        "ORTHANC_USER": "worker",
        "ORTHANC_PASSWORD": "secret",
        "WORKER_ID": name,
        "SPOOL_DIR": str(folder / "spool"),
        "FEATURE_CACHE_DIR": str(folder / cache),
        "DICOM_RESULTS": "none",
        "SLIDE": str(shared_path("slides/dicom-cmu-1-small-region")),
        "ENCODED": str(folder / f"{name}.txt"),
        "STOP_AT": str(stop_at),
    }
    return subprocess.Popen([sys.executable, "-m", "tests.support.cut_off_worker"], env=environment)


def batches(folder: Path, name: str) -> list[int]:
    path = folder / f"{name}.txt"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def end(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(60)
    finally:
        process.kill()
        process.wait()


def served(server: ScriptedServer, folder: Path, name: str, *, cache: str) -> ScriptedRequest:
    request = server.add_request(REQUEST_ID)
    assert end(worker(server, folder, name, cache=cache, stop_at=0)) == 0
    assert request.status == "completed"
    return request


def test_a_worker_killed_at_nine_tenths_is_gone_on_from_and_the_result_is_identical(
    server: ScriptedServer, tmp_path: Path
) -> None:
    whole = served(server, tmp_path, "undisturbed", cache="one")
    count = len(batches(tmp_path, "undisturbed"))
    last = round(0.9 * count)
    assert 10 <= last < count, "the slide has too few patches to be cut at nine tenths"

    request = server.add_request(REQUEST_ID)
    killed = worker(server, tmp_path, "killed", cache="two", stop_at=last)
    server.wait_for(lambda: len(batches(tmp_path, "killed")) == last, seconds=60)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert request.completion is None

    request.status = "pending"  # as the server makes it when the lease has run out
    assert end(worker(server, tmp_path, "successor", cache="two", stop_at=0)) == 0
    assert batches(tmp_path, "successor") == batches(tmp_path, "undisturbed")[last - 1 :]
    assert request.artifacts == whole.artifacts
    assert result(request) == result(whole)


def result(request: ScriptedRequest) -> dict[str, object]:
    return {**request.document["result"], "timings_s": None}
