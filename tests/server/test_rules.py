# SPDX-License-Identifier: AGPL-3.0-or-later
"""Rules on arrival in a real Orthanc: tags, AE title, lost events, and our own results beside the slide."""

from __future__ import annotations

import time
from typing import Any

import pytest
from pydicom.uid import generate_uid

from tests.support.orthanc_server import OrthancServer
from tests.support.tiny_dicom import tiny_slide
from tests.support.wait import wait_until

pytestmark = [pytest.mark.server, pytest.mark.slow]

STABLE_AGE_S = 2
RULES = [
    {"Name": "mouths", "Match": {"BodyPartExamined": "MOUTH"}, "Model": "oral"},
    {"Name": "scanner", "Match": {"RemoteAET": "SCANNER1"}, "Model": "scanned"},
    {"Name": "typo", "Match": {"BodyPartExamind": "MOUTH"}, "Model": "oral"},
]


def server_with_rules() -> OrthancServer:
    return OrthancServer(
        overrides={"Pathology": {"Rules": RULES}}, environment={"ORTHANC_STABLE_AGE": str(STABLE_AGE_S)}
    )


def wait_until_read(server: OrthancServer) -> None:
    wait_until(lambda: server.get("/pathology/health").json()["complete"], told=server.log)
    time.sleep(0.5)  # the first start with rules sets its mark


def store(server: OrthancServer, study_uid: str, body_part: str) -> str:
    content = tiny_slide(generate_uid(), study_uid, body_part=body_part)
    answer = server.post("/instances", data=content)
    answer.raise_for_status()
    return str(answer.json()["ParentSeries"])


def requests_of(server: OrthancServer) -> list[dict[str, Any]]:
    found = server.get("/pathology/requests/").json()["requests"]
    assert isinstance(found, list)
    return found


def wait_for_request(server: OrthancServer, seconds: float) -> dict[str, Any]:
    wait_until(lambda: requests_of(server), seconds, told=server.log)
    return requests_of(server)[0]


def complete_with_overlay(server: OrthancServer, study_uid: str) -> None:
    """Deliver a result whose DICOM series looks like a slide itself."""
    token = "ab" * 16
    offer = {"worker_id": "w", "token": token, "api": 1, "wait": 10, "models": [{"name": "oral"}]}
    claimed = server.post("/pathology/claim", json=offer, auth=server.worker).json()
    request_id, fence = claimed["request"]["request_id"], claimed["lease"]["fence"]
    overlay = tiny_slide(generate_uid(), study_uid, body_part="MOUTH")
    headers = {
        "Content-Type": "application/dicom",
        "X-Pathology-Token": token,
        "X-Pathology-Fence": str(fence),
    }
    path = f"/pathology/requests/{request_id}/artifacts/overlay.dcm"
    sent = server.request("PUT", path, auth=server.worker, data=overlay, headers=headers)
    sent.raise_for_status()
    named = {key: sent.json()["artifact"][key] for key in ("name", "size", "sha256")}
    body = {
        "worker_id": "w",
        "token": token,
        "fence": fence,
        "fingerprint": claimed["request"]["fingerprint"],
        "artifacts": [named],
        "result": {"predicted_class": "a", "probabilities": {"a": 1.0}},
    }
    path = f"/pathology/complete-request/{request_id}/"
    server.post(path, json=body, auth=server.worker).raise_for_status()


def test_a_slide_is_submitted_once_through_results_re_upload_and_restart() -> None:
    study_uid = generate_uid()
    with server_with_rules() as server:
        wait_until_read(server)
        series = store(server, study_uid, "MOUTH")
        store(server, study_uid, "SKIN")
        request = wait_for_request(server, STABLE_AGE_S + 5)
        assert (request["series"], request["model"]) == (series, "oral")
        assert request["created_by"] == "rule mouths"
        never_met = [line for line in server.log().splitlines() if "is never met" in line]
        assert [line.split("Rule ")[1].split()[0] for line in never_met] == ["typo"]

        complete_with_overlay(server, study_uid)
        time.sleep(3 * STABLE_AGE_S)
        instance = server.get(f"/series/{series}").json()["Instances"][0]
        server.post("/instances", data=server.get(f"/instances/{instance}/file").content).raise_for_status()
        time.sleep(STABLE_AGE_S + 1)
        server.restart()
        wait_until_read(server)
        time.sleep(STABLE_AGE_S + 1)
        assert [item["request_id"] for item in requests_of(server)] == [request["request_id"]]


def test_a_kill_before_the_series_has_settled_loses_no_slide() -> None:
    with server_with_rules() as server:
        wait_until_read(server)
        time.sleep(1.0)
        series = store(server, generate_uid(), "MOUTH")
        server.kill()
        wait_until_read(server)
        assert wait_for_request(server, STABLE_AGE_S + 8)["series"] == series
        time.sleep(STABLE_AGE_S + 2)
        assert len(requests_of(server)) == 1
