# SPDX-License-Identifier: Apache-2.0
"""Every bad input is a sentence that says what to do, and the worker goes on to the next request."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.dicom_files import another_slide, blank_slide, ct_file
from tests.support.orthanc_server import OrthancServer, free_port, store_file
from tests.support.shared_data import shared_path
from tests.support.small_disk import small_file_system
from tests.support.worker_process import WorkerProcess, wait_until_ended

pytestmark = [pytest.mark.server]


@pytest.fixture(scope="module")
def orthanc() -> Iterator[OrthancServer]:
    with OrthancServer() as server:
        yield server


def analyze(server: OrthancServer, **body: Any) -> tuple[int, dict[str, Any]]:
    answer = server.post("/pathology/analyze", json=body)
    return answer.status_code, answer.json()


def worker_for(server: OrthancServer, folder: Path, **environment: str) -> WorkerProcess:
    return WorkerProcess.at(server, folder / "worker", environment=environment)


def assert_is_a_sentence(text: str) -> None:
    assert len(text) > 20
    assert text.rstrip()[-1] in ".:)", text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    "body",
    [{"series": "nonsense"}, {"study": "0" * 8}, {"series_instance_uid": "1.2.3"}],
    ids=["series", "study", "uid"],
)
def test_an_unknown_resource_is_404(orthanc: OrthancServer, body: dict[str, str]) -> None:
    status, answer = analyze(orthanc, **body)
    assert (status, answer["success"], answer["code"]) == (404, False, "unknown_resource")
    assert_is_a_sentence(answer["error"])


def test_a_ct_series_is_refused_at_submit(orthanc: OrthancServer, tmp_path: Path) -> None:
    series = store_file(orthanc, ct_file(tmp_path))["ParentSeries"]
    status, answer = analyze(orthanc, series=series)
    assert (status, answer["code"]) == (422, "not_a_slide")
    assert_is_a_sentence(answer["error"])


def test_a_series_with_only_a_label_is_refused_at_submit(orthanc: OrthancServer) -> None:
    label = shared_path("slides/dicom-misc/label_only_volume_missing.dcm")
    series = store_file(orthanc, label)["ParentSeries"]
    status, answer = analyze(orthanc, series=series)
    assert (status, answer["code"]) == (422, "no_volume")
    assert_is_a_sentence(answer["error"])


def test_a_wrong_password_is_named_by_doctor_and_by_run(orthanc: OrthancServer, tmp_path: Path) -> None:
    worker = worker_for(orthanc, tmp_path, ORTHANC_PASSWORD="mistyped-secret")
    doctor = worker.command("doctor")
    assert doctor.returncode != 0
    assert "password" in (doctor.stdout + doctor.stderr).lower()
    run = worker.command("run", "--once")
    assert run.returncode != 0
    assert "password" in (run.stdout + run.stderr).lower()
    assert "mistyped-secret" not in run.stdout + run.stderr


def test_orthanc_that_is_down_is_named_by_doctor_and_submit(orthanc: OrthancServer, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    worker = worker_for(orthanc, tmp_path, ORTHANC_URL=url)
    for arguments in (("doctor",), ("submit", "--series", "x")):
        done = worker.command(*arguments)
        assert done.returncode != 0, arguments
        assert url in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("case", ["missing", "corrupt"])
def test_a_bad_checkpoint_stops_the_worker_with_its_path(
    orthanc: OrthancServer, tmp_path: Path, case: str
) -> None:
    checkpoint = tmp_path / "model.pt"
    if case == "corrupt":
        checkpoint.write_bytes(os.urandom(4096))
    done = worker_for(orthanc, tmp_path, MODEL_PATH=str(checkpoint)).command("run", "--once")
    assert done.returncode != 0
    assert str(checkpoint) in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_slide_without_tissue_fails_with_its_reason_and_the_next_one_is_done(
    orthanc: OrthancServer, tmp_path: Path
) -> None:
    blank = store_file(orthanc, blank_slide(tmp_path))["ParentSeries"]
    good = store_file(orthanc, another_slide(tmp_path, container_id="AFTER-BLANK"))["ParentSeries"]
    requests = []
    for series in (blank, good):
        status, answer = analyze(orthanc, series=series)
        assert status == 201, answer
        requests.append(answer["request_id"])
    with worker_for(orthanc, tmp_path) as worker:
        failed, done = (wait_until_ended(orthanc.url, orthanc.person, request) for request in requests)
    assert (failed["status"], done["status"]) == ("failed", "completed"), worker.log()
    error: Any = failed["error"]
    assert (error["code"], error["retryable"], failed["attempts"]) == ("no_tissue", False, 1)
    assert_is_a_sentence(error["message"])
    assert error["message"] in worker.log()


@pytest.mark.slow
def test_a_full_disk_on_the_worker_is_named_and_costs_no_result(
    orthanc: OrthancServer, tmp_path: Path
) -> None:
    series = store_file(orthanc, another_slide(tmp_path, container_id="FULL-DISK"))["ParentSeries"]
    _, answer = analyze(orthanc, series=series)
    with small_file_system(tmp_path / "tiny", "64k") as tiny:
        with worker_for(orthanc, tmp_path, SPOOL_DIR=str(tiny / "spool")) as worker:
            request = wait_until_ended(orthanc.url, orthanc.person, answer["request_id"])
        log = worker.log()
    assert request["status"] == "completed"
    assert "SPOOL_DIR" in log
    assert "disk" in log.lower()
