# SPDX-License-Identifier: Apache-2.0
"""The worker's client against the real plugin in a real Orthanc."""

from __future__ import annotations

import dataclasses
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.dicom_files import another_slide
from tests.support.orthanc_server import OrthancServer, store_file
from tests.support.wait import wait_until
from worker.api.client import PluginClient
from worker.api.contract import Claim, ModelOffer, new_token
from worker.api.transport import make_session
from worker.errors import LeaseLostError, RefusedError, RequestGoneError, UnauthorizedError
from worker.jobs.delivery import Delivery, failure_delivery, result_delivery
from worker.jobs.failures import Failure
from worker.serving.outbox import Fate, Outbox
from worker.serving.spool import Spool, SpoolLimits
from worker.settings import Settings
from worker.settings_reading import load_settings
from worker.sources import RangesClient
from worker.sources.errors import SourceUnauthorizedError

pytestmark = [pytest.mark.server]

OFFER = ModelOffer("test-model", "1", "0" * 64)
PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 100
RESULT = {
    "predicted_class": "tumor",
    "probabilities": {"normal": 0.2, "tumor": 0.8},
    "model": {"name": "test-model", "version": "1", "sha256": "0" * 64},
    "timings_s": {"encode": 1.0},
}


@pytest.fixture(scope="module")
def orthanc() -> Iterator[OrthancServer]:
    with OrthancServer() as server:
        yield server


def settings_of(server: OrthancServer, worker_id: str = "lab-1", password: str | None = None) -> Settings:
    return load_settings(
        {
            "ORTHANC_URL": server.url,
            "ORTHANC_USER": server.worker[0],
            "ORTHANC_PASSWORD": password or server.worker[1],
            "SUBMIT_USER": server.person[0],
            "SUBMIT_PASSWORD": server.person[1],
            "WORKER_ID": worker_id,
        }
    )


@pytest.fixture
def worker(orthanc: OrthancServer) -> Iterator[PluginClient]:
    settings = settings_of(orthanc)
    client = PluginClient(settings, settings.worker)
    yield client
    client.close()


@pytest.fixture
def person(orthanc: OrthancServer) -> Iterator[PluginClient]:
    settings = settings_of(orthanc)
    client = PluginClient(settings, settings.person)
    yield client
    client.close()


@pytest.fixture
def request_id(orthanc: OrthancServer, person: PluginClient, tmp_path: Path) -> Iterator[str]:
    """A submitted request on a slide of its own; deleted with its series at the end."""
    series = store_file(orthanc, another_slide(tmp_path, container_id="CONTRACT"))["ParentSeries"]
    yield str(person.submit({"series": series})["request_id"])
    orthanc.request("DELETE", f"/series/{series}")


def claim_once(client: PluginClient, token: str, wait_s: float = 20) -> Claim:
    claim = client.claim(token, [OFFER], OFFER.name, device="cpu", wait_s=wait_s).claim
    assert claim is not None
    return claim


def delivered(claim: Claim) -> Delivery:
    return result_delivery(claim, "lab-1", RESULT, {"heatmap.png": PNG})


def outbox(client: PluginClient, folder: Path) -> tuple[Outbox, Spool]:
    spool = Spool(folder / "spool", SpoolLimits(1_000_000, 3600))
    return Outbox(client, spool), spool


def test_a_request_goes_from_submission_to_result(
    worker: PluginClient, person: PluginClient, request_id: str, tmp_path: Path
) -> None:
    claim = claim_once(worker, new_token())
    assert claim.request_id == request_id
    assert claim.request["model"] == "test-model"
    assert [instance.is_volume for instance in claim.instances] == [True]
    worker.heartbeat(request_id, claim.lease, stage="encode", progress=0.5, detail="half")
    sender, spool = outbox(worker, tmp_path)
    assert sender.deliver(delivered(claim)) is Fate.ARRIVED
    request = ended(person, request_id)
    assert request["status"] == "completed"
    assert request["result"]["probabilities"] == RESULT["probabilities"]
    assert list(spool.waiting()) == []


def ended(person: PluginClient, request_id: str) -> dict[str, Any]:
    request = person.get_request(request_id)
    while request["status"] == "publishing":
        request = person.get_request(request_id, wait_s=5, version=request["version"])
    return request


def test_the_same_token_gets_the_same_lease_again(worker: PluginClient, request_id: str) -> None:
    token = new_token()
    first, second = claim_once(worker, token), claim_once(worker, token, wait_s=0)
    assert (first.request_id, first.lease) == (second.request_id, second.lease)


def test_the_same_completion_is_answered_alike_and_another_one_is_refused(
    worker: PluginClient, request_id: str
) -> None:
    claim = claim_once(worker, new_token())
    worker.heartbeat(request_id, claim.lease, stage="open", progress=0.0, detail="")
    failure = failure_delivery(claim, "lab-1", Failure("no_tissue", "No tissue was found.", retryable=False))
    assert worker.complete(request_id, failure.body)["status"] == "failed"
    assert worker.complete(request_id, failure.body)["status"] == "failed"
    other = failure_delivery(claim, "lab-1", Failure("no_tissue", "Something else.", retryable=False))
    with pytest.raises(RefusedError) as raised:
        worker.complete(request_id, other.body)
    assert raised.value.code == "already_completed"


def test_a_request_that_was_handed_back_is_claimed_again_under_a_higher_fence(
    worker: PluginClient, request_id: str
) -> None:
    first = claim_once(worker, new_token())
    worker.hand_back(request_id, first.lease)
    second = claim_once(worker, new_token())
    assert second.lease.fence > first.lease.fence
    with pytest.raises(LeaseLostError):
        worker.heartbeat(request_id, first.lease, stage="encode", progress=0.5, detail="")


def test_a_superseded_result_is_unwanted_and_leaves_the_spool(
    worker: PluginClient, request_id: str, tmp_path: Path
) -> None:
    first = claim_once(worker, new_token())
    worker.hand_back(request_id, first.lease)
    claim_once(worker, new_token())
    sender, spool = outbox(worker, tmp_path)
    assert sender.deliver(delivered(first)) is Fate.UNWANTED
    assert list(spool.waiting()) == []


def test_a_cancel_reaches_the_worker_with_its_heartbeat(
    orthanc: OrthancServer, worker: PluginClient, person: PluginClient, request_id: str
) -> None:
    claim = claim_once(worker, new_token())
    worker.heartbeat(request_id, claim.lease, stage="open", progress=0.0, detail="")
    orthanc.post(f"/pathology/requests/{request_id}/cancel", json={}).raise_for_status()
    assert worker.heartbeat(request_id, claim.lease, stage="encode", progress=0.1, detail="").cancel
    worker.confirm_cancel(request_id, claim.lease)
    assert person.get_request(request_id)["status"] == "cancelled"


def test_a_deleted_series_is_told_to_the_worker(
    orthanc: OrthancServer, worker: PluginClient, request_id: str
) -> None:
    claim = claim_once(worker, new_token())
    orthanc.request("DELETE", f"/series/{claim.request['series']}").raise_for_status()

    def is_told() -> bool:
        try:
            worker.heartbeat(request_id, claim.lease, stage="encode", progress=0.5, detail="")
        except RequestGoneError:
            return True
        return False

    wait_until(is_told)  # Orthanc tells of a deletion by a thread of its own


def test_a_result_outlives_a_restart_of_orthanc_in_the_spool(
    orthanc: OrthancServer, worker: PluginClient, person: PluginClient, request_id: str, tmp_path: Path
) -> None:
    claim = claim_once(worker, new_token())
    worker.heartbeat(request_id, claim.lease, stage="encode", progress=0.5, detail="")
    sender, spool = outbox(worker, tmp_path)
    orthanc.stop()
    assert sender.deliver(delivered(claim)) is Fate.WAITS
    assert [delivery.request_id for delivery in spool.waiting()] == [request_id]
    orthanc.start()
    assert sender.replay()
    assert ended(person, request_id)["status"] == "completed"


def test_a_result_waits_while_an_orthanc_without_the_plugin_answers(
    orthanc: OrthancServer, worker: PluginClient, person: PluginClient, request_id: str, tmp_path: Path
) -> None:
    claim = claim_once(worker, new_token())
    users = {"RegisteredUsers": dict([orthanc.worker])}
    with OrthancServer(overrides={"PythonScript": None, "Pathology": None, **users}) as bare:
        settings = dataclasses.replace(settings_of(orthanc), api_url=f"{bare.url}/pathology")
        there = PluginClient(settings, settings.worker)
        sender, spool = outbox(there, tmp_path)
        assert sender.deliver(delivered(claim)) is Fate.WAITS
        there.close()
    assert len(list(spool.waiting())) == 1
    back, _ = outbox(worker, tmp_path)
    assert back.replay()
    assert ended(person, request_id)["status"] == "completed"


def test_a_slide_is_not_read_with_a_wrong_password_and_what_says_so_is_no_word_on_the_slide(
    orthanc: OrthancServer, worker: PluginClient, request_id: str
) -> None:
    claim = claim_once(worker, new_token())
    wrong = settings_of(orthanc, password="canary-of-a-password")
    with make_session(wrong.worker) as session:
        client = RangesClient(wrong, session, wait=lambda _seconds: False)
        with pytest.raises(SourceUnauthorizedError, match="does not accept the user or the password"):
            client.read(claim.instances[0], [(0, 132)])


def test_a_connection_that_idled_longer_than_orthanc_keeps_it_is_no_error(
    worker: PluginClient, request_id: str
) -> None:
    claim = claim_once(worker, new_token())
    for _ in range(3):
        worker.heartbeat(request_id, claim.lease, stage="encode", progress=0.5, detail="")
        time.sleep(1.1)


def test_a_long_poll_is_ended_by_a_second_claim_under_its_token(orthanc: OrthancServer) -> None:
    settings = settings_of(orthanc, "lab-ending")
    token, took = new_token(), []

    def poll() -> None:
        begun = time.monotonic()
        PluginClient(settings, settings.worker).claim(token, [OFFER], None, device="cpu", wait_s=20)
        took.append(time.monotonic() - begun)

    thread = threading.Thread(target=poll)
    thread.start()
    time.sleep(0.5)
    PluginClient(settings, settings.worker).claim(token, [OFFER], None, device="cpu", wait_s=0)
    thread.join(5)
    assert not thread.is_alive()
    assert took[0] < 5


def test_a_claim_whose_answer_was_lost_is_granted_again(
    orthanc: OrthancServer, worker: PluginClient, person: PluginClient, request_id: str
) -> None:
    token = new_token()
    with socket.create_connection(("127.0.0.1", orthanc.port)) as connection:
        connection.sendall(claim_bytes(orthanc, token))
        request = person.get_request(request_id)
        while request["status"] == "pending":
            request = person.get_request(request_id, wait_s=5, version=request["version"])
    claim = claim_once(worker, token, wait_s=0)
    assert (claim.request_id, claim.lease.fence) == (request_id, 1)


def claim_bytes(server: OrthancServer, token: str) -> bytes:
    """Return a claim as it goes over the line, for a socket that closes before the answer is read."""
    body = {"worker_id": "lab-1", "token": token, "api": 1, "wait": 20, "models": [OFFER.as_json()]}
    body |= {"default_model": OFFER.name, "software": "0.1.0", "device": "cpu"}
    prepared = requests.Request(
        "POST", f"{server.url}/pathology/claim", json=body, auth=server.worker
    ).prepare()
    assert isinstance(prepared.body, bytes)
    lines = [f"POST {prepared.path_url} HTTP/1.1", "Host: orthanc"]
    lines += [f"{name}: {value}" for name, value in prepared.headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + prepared.body


def test_a_person_may_not_claim_and_a_worker_may_not_submit(
    worker: PluginClient, person: PluginClient, request_id: str
) -> None:
    with pytest.raises(RefusedError) as raised:
        person.claim(new_token(), [OFFER], None, device="cpu", wait_s=0)
    assert raised.value.code == "forbidden_role"
    with pytest.raises(RefusedError) as raised:
        worker.submit({"series": "x"})
    assert raised.value.status == 403


def test_a_wrong_password_is_named_without_being_repeated(orthanc: OrthancServer) -> None:
    settings = settings_of(orthanc, password="canary-of-a-password")
    with pytest.raises(UnauthorizedError, match="does not accept the user or the password") as raised:
        PluginClient(settings, settings.worker).health()
    assert "canary" not in str(raised.value)
