# SPDX-License-Identifier: Apache-2.0
"""What archivists do to slides with requests and results: Orthanc's own merge, modify, and sending on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pydicom.uid import generate_uid

from tests.support.fake_worker import MODEL, FakeWorker
from tests.support.orthanc_server import OrthancServer
from tests.support.tiny_dicom import tiny_result, tiny_slide
from tests.support.wait import wait_until

pytestmark = [pytest.mark.server, pytest.mark.slow]

RULES = [{"Name": "slides", "Match": {"Modality": "SM"}, "Model": MODEL["name"]}]


@pytest.fixture(scope="module")
def running() -> Iterator[OrthancServer]:
    with OrthancServer() as server:
        yield server


@pytest.fixture
def server(running: OrthancServer) -> Iterator[OrthancServer]:
    yield running
    running.delete_all()
    wait_until(lambda: not requests_of(running))


@dataclass(frozen=True)
class Study:
    """A study whose three slides have a request that waits, one at work and one with a result."""

    study: str
    patient: str
    waiting: str
    running: FakeWorker
    completed: str

    @property
    def requests(self) -> tuple[str, str, str]:
        return self.waiting, self.running.request_id, self.completed


def store(server: OrthancServer, study_uid: str) -> dict[str, Any]:
    answer = server.post("/instances", data=tiny_slide(generate_uid(), study_uid))
    answer.raise_for_status()
    stored: dict[str, Any] = answer.json()
    wait_until(lambda: server.get(f"/series/{stored['ParentSeries']}").json()["IsStable"])
    return stored


def a_study(server: OrthancServer) -> Study:
    study_uid = generate_uid()
    slides = [store(server, study_uid) for _ in range(3)]
    completed = submit(server, slides[0]["ParentSeries"])
    deliver(FakeWorker(server))
    submit(server, slides[1]["ParentSeries"])
    worker = FakeWorker(server)
    worker.claim()
    worker.report("encode", 0.4)
    waiting = submit(server, slides[2]["ParentSeries"])
    return Study(slides[0]["ParentStudy"], slides[0]["ParentPatient"], waiting, worker, completed)


def submit(server: OrthancServer, series: str) -> str:
    answer = server.post("/pathology/analyze", json={"series": series})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["request_id"])


def deliver(worker: FakeWorker) -> None:
    if not worker.claimed:
        worker.claim()
    report = tiny_result(worker.claimed["request"]["study_instance_uid"])
    sent = [worker.put("sr.dcm", report, "application/dicom")]
    worker.complete({"predicted_class": "a", "probabilities": {"a": 1.0}}, sent)


def requests_of(server: OrthancServer) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.get("/pathology/requests/").json()["requests"]
    return found


def statuses(server: OrthancServer) -> dict[str, str]:
    return {request["request_id"]: request["status"] for request in requests_of(server)}


def modalities(server: OrthancServer, patient: str) -> list[str]:
    series = server.get(f"/patients/{patient}/series").json()
    return sorted(one["MainDicomTags"]["Modality"] for one in series)


def changed_patient(server: OrthancServer, study: Study, *, keep_source: bool) -> str:
    change = {
        "Replace": {"PatientID": "RIGHT", "PatientName": "RIGHT"},
        "Keep": ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"],
        "KeepSource": keep_source,
        "Force": True,
    }
    answer = server.post(f"/patients/{study.patient}/modify", json=change)
    answer.raise_for_status()
    return str(answer.json()["ID"])


def test_requests_of_slides_that_were_merged_into_another_study_end_and_the_audit_says_so(
    server: OrthancServer,
) -> None:
    study, target = a_study(server), store(server, generate_uid())
    answer = server.post(f"/studies/{target['ParentStudy']}/merge", json={"Resources": [study.study]})
    answer.raise_for_status()
    wait_until(lambda: not requests_of(server))

    for request_id in study.requests:
        assert server.get(f"/pathology/requests/{request_id}").status_code == 410
    with pytest.raises(AssertionError, match="source_deleted"):
        study.running.report("encode", 0.5)
    lines = (server.folder / "storage" / "pathology-audit.log").read_text("utf-8").splitlines()
    deleted = [event for event in map(json.loads, lines) if event["event"] == "source_deleted"]
    assert {event["request_id"] for event in deleted} >= set(study.requests)
    assert modalities(server, target["ParentPatient"]) == ["SM", "SM", "SM", "SM", "SR"]


def test_a_copy_for_another_patient_has_no_requests_and_the_source_keeps_its_own(
    server: OrthancServer,
) -> None:
    study = a_study(server)
    before = statuses(server)
    right = changed_patient(server, study, keep_source=True)

    assert statuses(server) == before
    assert modalities(server, right) == ["SM", "SM", "SM", "SR"]
    copies = {one["ID"] for one in server.get(f"/patients/{right}/series").json()}
    assert copies.isdisjoint(request["series"] for request in requests_of(server))
    deliver(study.running)
    assert modalities(server, right) == ["SM", "SM", "SM", "SR"]
    assert modalities(server, study.patient) == ["SM", "SM", "SM", "SR", "SR"]


def test_withdrawing_a_result_leaves_what_was_copied_for_another_patient(server: OrthancServer) -> None:
    study = a_study(server)
    right = changed_patient(server, study, keep_source=True)
    withdraw = f"/pathology/requests/{study.completed}/withdraw"
    server.post(withdraw, json={"reason": "of another patient"}).raise_for_status()
    wait_until(lambda: "SR" not in modalities(server, study.patient))
    assert modalities(server, right) == ["SM", "SM", "SM", "SR"]


@pytest.mark.parametrize("way", ["store", "archive"])
def test_slides_sent_on_are_submitted_there_by_rules_and_their_results_are_not(
    server: OrthancServer, way: str
) -> None:
    study = a_study(server)
    before = statuses(server)
    with OrthancServer(overrides={"Pathology": {"Rules": RULES}}) as other:
        wait_until(lambda: other.get("/pathology/health").json()["complete"])
        time.sleep(0.5)  # the first start with rules sets its mark
        if way == "store":
            peer = [other.url, *other.person]
            server.request("PUT", "/peers/other", json=peer).raise_for_status()
            server.post("/peers/other/store", data=study.study).raise_for_status()
        else:
            archive = server.get(f"/studies/{study.study}/archive").content
            other.post("/instances", data=archive).raise_for_status()
        wait_until(lambda: len(requests_of(other)) == 3)
        time.sleep(3)  # two more StableAges
        assert list(statuses(other).values()) == ["pending"] * 3
        assert modalities(other, study.patient) == ["SM", "SM", "SM", "SR"]
    assert statuses(server) == before
