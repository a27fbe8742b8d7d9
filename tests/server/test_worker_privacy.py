# SPDX-License-Identifier: Apache-2.0
"""Nothing of a patient and no password reaches the worker's log or disk, at the chattiest level."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest

from tests.support.dicom_files import another_slide
from tests.support.orthanc_server import OrthancServer, store_file
from tests.support.worker_process import WorkerProcess, wait_until_ended

pytestmark = [pytest.mark.server, pytest.mark.slow]

NAME = "CANARY^PATIENT"
BIRTH_DATE = "19010203"
GLASS = "CANARY-GLASS"


def slide_of_a_patient(folder: Path) -> Path:
    path = another_slide(folder, container_id=GLASS)
    dataset = pydicom.dcmread(path)
    dataset.PatientName, dataset.PatientBirthDate = NAME, BIRTH_DATE
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_log_and_the_disk_of_a_worker_know_no_patient_and_no_password(
    tmp_path: Path, log_format: str
) -> None:
    with OrthancServer() as orthanc:
        series = store_file(orthanc, slide_of_a_patient(tmp_path))["ParentSeries"]
        worker = WorkerProcess(
            orthanc.url,
            worker=orthanc.worker,
            person=orthanc.person,
            folder=tmp_path / "worker",
            environment={"LOG_LEVEL": "DEBUG", "LOG_FORMAT": log_format, "TMPDIR": str(tmp_path / "worker")},
        )
        with worker:
            answer = orthanc.post("/pathology/analyze", json={"series": series}).json()
            request = wait_until_ended(orthanc.url, orthanc.person, answer["request_id"])
        assert request["status"] == "completed", worker.log()
        secrets = (NAME, BIRTH_DATE, GLASS, orthanc.worker[1], orthanc.person[1])
    assert answer["request_id"][:8] in worker.log()
    kept = b"".join(path.read_bytes() for path in (tmp_path / "worker").rglob("*") if path.is_file())
    for secret in secrets:
        assert secret.encode() not in kept
