# SPDX-License-Identifier: Apache-2.0
"""``pathology-worker run --devices``: several real processes on one machine, against a real Orthanc."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.support.dicom_files import another_slide
from tests.support.orthanc_server import OrthancServer, store_file
from tests.support.worker_process import WorkerProcess, wait_until_ended

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc"),
]


def workers_of(orthanc: OrthancServer) -> dict[str, bool]:
    return {item["worker_id"]: item["alive"] for item in orthanc.get("/pathology/workers").json()["workers"]}


def processes_of(parent: int) -> dict[str, int]:
    """Return the workers that a supervisor has started, by name."""
    found = {}
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text("ascii").split():
        with contextlib.suppress(OSError):  # it has ended since
            environment = Path(f"/proc/{child}/environ").read_bytes().decode().split("\0")
            found.update(
                {
                    item.removeprefix("WORKER_ID="): int(child)
                    for item in environment
                    if item.startswith("WORKER_ID=")
                }
            )
    return found


def finding_of(worker: WorkerProcess, check: str) -> dict[str, str]:
    told = worker.command("doctor", "--round-trip", "--json").stdout
    return next(finding for finding in json.loads(told)["findings"] if finding["check"] == check)


def test_two_processes_share_the_work_one_that_dies_comes_back_and_a_signal_ends_both(tmp_path: Path) -> None:
    with OrthancServer() as orthanc:
        worker = WorkerProcess.at(
            orthanc,
            tmp_path / "worker",
            worker_id="lab",
            options=("--devices", "cpu,cpu"),
        )
        with worker:
            worker.wait_until(lambda: workers_of(orthanc) == {"lab-cpu-1": True, "lab-cpu-2": True})
            requests = [
                orthanc.post("/pathology/analyze", json={"series": series}).json()["request_id"]
                for series in (
                    store_file(orthanc, another_slide(tmp_path, container_id=f"glass-{number}"))[
                        "ParentSeries"
                    ]
                    for number in range(4)
                )
            ]
            ended = [wait_until_ended(orthanc.url, orthanc.person, request_id) for request_id in requests]
            assert {request["status"] for request in ended} == {"completed"}
            assert {request["worker_id"] for request in ended} == {"lab-cpu-1", "lab-cpu-2"}

            before = processes_of(worker.pid)
            os.kill(before["lab-cpu-1"], signal.SIGKILL)
            worker.wait_until(
                lambda: processes_of(worker.pid).get("lab-cpu-1", 0) not in {0, before["lab-cpu-1"]}
            )
            after = processes_of(worker.pid)
            assert after["lab-cpu-2"] == before["lab-cpu-2"]
            worker.wait_until(lambda: worker.log().count("Worker lab-cpu-1 0.") == 2)
            assert worker.stop() == 0, worker.log()
        assert not [process for process in after.values() if Path(f"/proc/{process}").exists()]


def test_the_doctors_round_trip_and_workers_that_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    with OrthancServer() as orthanc:
        worker = WorkerProcess.at(
            orthanc,
            tmp_path / "worker",
            worker_id="lab",
            options=("--devices", "cpu"),
        )
        nobody = finding_of(worker, "round trip")
        assert nobody["verdict"] == "failed"
        assert "No worker is alive now" in nobody["message"]
        assert orthanc.get("/studies").json() == []
        with worker:
            worker.wait_until(lambda: workers_of(orthanc) == {"lab-cpu": True})
            done = finding_of(worker, "round trip")
            assert (done["verdict"], done["message"][:28]) == ("ok", "lab-cpu analysed a drawn sli")
            assert orthanc.get("/studies").json() == []
            process = processes_of(worker.pid)["lab-cpu"]
            worker.stop(signal.SIGKILL)
            worker.wait_until(lambda: not Path(f"/proc/{process}").exists(), 30)
        assert "The worker ends after 1 request(s)." in worker.log()
