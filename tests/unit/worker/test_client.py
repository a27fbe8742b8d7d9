# SPDX-License-Identifier: Apache-2.0
"""The client of the contract: what it sends, what it repeats, and what it makes of answers."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import responses

from tests.support.scripted_server import FOREIGN_PAGES, Fault, Page, ScriptedServer
from tests.unit.worker.conftest import PASSWORD, QUICK, Rig
from worker.api.calls import Retry
from worker.api.client import PluginClient
from worker.api.contract import ClaimAnswer, Lease, parse_claim, parse_heartbeat
from worker.api.transport import make_session
from worker.backoff import Backoff
from worker.errors import (
    BusyError,
    ForeignAnswerError,
    LeaseLostError,
    RefusedError,
    RequestGoneError,
    ServerError,
    UnauthorizedError,
    UnreachableError,
)
from worker.settings import Credentials, Settings
from worker.settings_reading import load_settings

URL = "http://orthanc.test:8042"
LEASE = Lease("0" * 32, 3, 60, 15, 15)


@pytest.fixture
def settings() -> Settings:
    return load_settings({"ORTHANC_URL": URL, "ORTHANC_USER": "lab", "ORTHANC_PASSWORD": PASSWORD})


@pytest.fixture
def client(settings: Settings) -> PluginClient:
    return PluginClient(settings, settings.worker, retry=QUICK, wait=lambda _seconds: False)


@pytest.fixture
def http() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


def noting(waits: list[float]) -> Callable[[float], bool]:
    """Return a wait that notes its seconds, takes no time and is cut short by nothing."""

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return False

    return wait


def answer_health(http: responses.RequestsMock, status: int, **options: object) -> None:
    http.get(f"{URL}/pathology/health", status=status, **options)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (409, "lease_lost", LeaseLostError),
        (410, "source_deleted", RequestGoneError),
        (404, "unknown_request", RequestGoneError),
        (409, "already_completed", RefusedError),
        (413, "artifact_too_large", RefusedError),
        (429, "too_busy", BusyError),
        (503, "starting", BusyError),
    ],
)
def test_each_error_of_the_contract_has_its_exception_with_code_and_sentence(
    client: PluginClient, http: responses.RequestsMock, status: int, code: str, expected: type[RefusedError]
) -> None:
    answer_health(http, status, json={"success": False, "code": code, "error": "Do this."})
    with pytest.raises(expected, match="Do this") as raised:
        client.health()
    assert (raised.value.status, raised.value.code) == (status, code)


def test_a_wrong_password_names_the_address_and_never_the_password(
    client: PluginClient, http: responses.RequestsMock
) -> None:
    answer_health(http, 401)
    with pytest.raises(UnauthorizedError, match=URL) as raised:
        client.health()
    assert PASSWORD not in str(raised.value)


@pytest.mark.parametrize("page", FOREIGN_PAGES.values(), ids=FOREIGN_PAGES.keys())
def test_what_is_not_in_the_contracts_shape_is_no_word_of_the_plugin(
    client: PluginClient, http: responses.RequestsMock, page: Page
) -> None:
    answer_health(http, page.status, body=page.body, headers=page.headers)
    with pytest.raises(
        (ForeignAnswerError, BusyError), match=f"{URL}/pathology.*{page.status}|no such route"
    ):
        client.health()


def test_a_page_is_named_by_its_kind_and_its_server_and_never_quoted(
    client: PluginClient, http: responses.RequestsMock
) -> None:
    headers = {"Server": "nginx/1.24.0\x1b[2J", "Content-Type": "text/html; charset=utf-8"}
    answer_health(http, 200, body="<html>SMITH</html>", headers=headers)
    with pytest.raises(ForeignAnswerError) as raised:
        client.health()
    assert "(200, text/html, nginx/1.24.0[2J)" in str(raised.value)
    assert "SMITH" not in str(raised.value)


def test_an_empty_success_is_one_of_a_claim_only(client: PluginClient, http: responses.RequestsMock) -> None:
    http.post(f"{URL}/pathology/claim", status=204)
    http.post(f"{URL}/pathology/complete-request/r1/", status=204)
    assert client.claim("0" * 32, [], None, device="cpu", wait_s=0) == ClaimAnswer(None, None)
    with pytest.raises(ForeignAnswerError):
        client.complete("r1", {})


def test_an_orthanc_without_the_plugin_is_named(client: PluginClient, http: responses.RequestsMock) -> None:
    answer_health(http, 404, body="")
    with pytest.raises(ForeignAnswerError, match="loads the pathology plugin"):
        client.health()


def test_a_redirect_is_not_followed_with_the_password(
    client: PluginClient, http: responses.RequestsMock
) -> None:
    answer_health(http, 302, headers={"Location": "http://elsewhere.test/"})
    with pytest.raises(ForeignAnswerError, match="set the final address"):
        client.health()
    assert len(http.calls) == 1


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (requests.exceptions.SSLError("x"), "REQUESTS_CA_BUNDLE"),
        *(
            (requests.exceptions.SSLError(f"[SSL] {words} (_ssl.c:1000)"), "speaks no TLS: use http://")
            for words in ("wrong version number", "record layer failure", "packet length too long")
        ),
        (requests.exceptions.ProxyError("x"), "HTTPS_PROXY"),
        (requests.exceptions.ReadTimeout("x"), "READ_TIMEOUT"),
        (requests.exceptions.ConnectionError("x"), "check that Orthanc runs"),
    ],
)
def test_each_failure_of_the_transport_names_address_and_fix(
    client: PluginClient, http: responses.RequestsMock, error: Exception, sentence: str
) -> None:
    answer_health(http, 200, body=error)
    with pytest.raises(UnreachableError, match=sentence) as raised:
        client.health()
    assert URL in str(raised.value)


def test_a_busy_server_is_asked_again_as_often_as_the_policy_says(
    client: PluginClient, http: responses.RequestsMock
) -> None:
    answer_health(http, 503, json={"code": "starting", "error": "Wait."}, headers={"Retry-After": "0"})
    with pytest.raises(BusyError):
        client.health()
    assert len(http.calls) == QUICK.attempts


@pytest.mark.parametrize(
    ("error", "first_s"),
    [
        (requests.exceptions.ConnectionError("Connection refused"), 1.0),
        (requests.exceptions.ConnectionError("Connection aborted."), 0.0),
    ],
    ids=["a server that is away", "a connection that was dropped"],
)
def test_only_the_first_repeat_on_a_dropped_connection_follows_at_once(
    settings: Settings, http: responses.RequestsMock, error: Exception, first_s: float
) -> None:
    waits: list[float] = []
    growing = Retry(attempts=4, backoff=Backoff(base_s=1, cap_s=30, uniform=lambda _low, high: high))
    client = PluginClient(settings, settings.worker, retry=growing, wait=noting(waits))
    answer_health(http, 200, body=error)
    with pytest.raises(UnreachableError):
        client.health()
    assert waits == [first_s, 2.0, 4.0]


def test_a_refusal_is_not_repeated(client: PluginClient, http: responses.RequestsMock) -> None:
    answer_health(http, 403, json={"success": False, "code": "forbidden_role", "error": "No."})
    with pytest.raises(RefusedError):
        client.health()
    assert len(http.calls) == 1


def test_the_servers_retry_after_is_waited_for(settings: Settings, http: responses.RequestsMock) -> None:
    waits: list[float] = []
    client = PluginClient(settings, settings.worker, retry=QUICK, wait=noting(waits))
    answer_health(http, 503, json={"code": "starting", "error": "Wait."}, headers={"Retry-After": "7"})
    with pytest.raises(BusyError):
        client.health()
    assert all(seconds >= 7 for seconds in waits)


def test_an_hour_that_a_page_asks_for_is_not_waited_for(
    settings: Settings, http: responses.RequestsMock
) -> None:
    waits: list[float] = []
    client = PluginClient(settings, settings.worker, retry=QUICK, wait=noting(waits))
    answer_health(http, 503, headers={"Retry-After": "3600"})
    with pytest.raises(BusyError) as raised:
        client.health()
    assert raised.value.retry_after_s == 60
    assert all(60 <= seconds < 61 for seconds in waits)


def test_a_heartbeat_waits_no_longer_than_until_the_next_one(
    settings: Settings, http: responses.RequestsMock
) -> None:
    waits: list[float] = []
    client = PluginClient(settings, settings.worker, retry=QUICK, wait=noting(waits))
    http.post(f"{URL}/pathology/update-status/r1/", status=503, headers={"Retry-After": "90"})
    with pytest.raises(BusyError):
        client.heartbeat("r1", LEASE, stage="encode", progress=0.5, detail="")
    assert (len(http.calls), waits) == (1, [])


def test_tries_of_a_heartbeat_that_take_long_are_not_followed_by_others(
    settings: Settings, http: responses.RequestsMock
) -> None:
    now = 0.0

    def late(_: requests.PreparedRequest) -> Any:
        nonlocal now
        now += 10
        return 503, {"Retry-After": "0"}, b""

    http.add_callback("POST", f"{URL}/pathology/update-status/r1/", callback=late)
    client = PluginClient(settings, settings.worker, retry=QUICK, wait=noting([]), clock=lambda: now)
    with pytest.raises(BusyError):
        client.heartbeat("r1", LEASE, stage="encode", progress=0.5, detail="")
    assert len(http.calls) == 2


def test_waiting_ends_early_where_a_shutdown_cuts_it(
    settings: Settings, http: responses.RequestsMock
) -> None:
    client = PluginClient(settings, settings.worker, retry=QUICK, wait=lambda _seconds: True)
    answer_health(http, 503)
    with pytest.raises(BusyError):
        client.health()
    assert len(http.calls) == 1


def test_a_post_on_a_connection_that_was_closed_meanwhile_is_sent_again_at_once(
    rig: Rig, server: ScriptedServer
) -> None:
    server.add_request()
    server.misbehave("/update-status/", Fault.DROP_BEFORE)
    waits: list[float] = []
    client = PluginClient(rig.settings, rig.settings.worker, wait=noting(waits))
    claim = client.claim("0" * 32, rig.analyzer.offers, None, device="cpu", wait_s=0).claim
    assert claim is not None
    client.heartbeat(claim.request_id, claim.lease, stage="open", progress=0.0, detail="")
    assert waits == [0.0]


def test_a_forced_submission_is_never_repeated_by_itself(
    client: PluginClient, http: responses.RequestsMock
) -> None:
    http.post(f"{URL}/pathology/analyze", body=requests.exceptions.ConnectionError("Connection aborted."))
    with pytest.raises(UnreachableError):
        client.submit({"series": "x", "force": True})
    assert len(http.calls) == 1


def test_a_heartbeat_leaves_out_what_it_has_not_to_say(
    client: PluginClient, http: responses.RequestsMock
) -> None:
    http.post(f"{URL}/pathology/update-status/r1/", json={"success": True, "cancel": False, "drain": False})
    client.heartbeat("r1", LEASE, stage="open", progress=1 / 3, detail="")
    assert http.calls[0].request.body == (
        b'{"worker_id": "%s", "token": "%s", "fence": 3, "status": "processing", "stage": "open", '
        b'"progress": 0.3333}' % (client._settings.worker_id.encode(), b"0" * 32)
    )


def test_an_artifact_goes_out_with_its_type_and_its_lease_in_headers(
    client: PluginClient, http: responses.RequestsMock
) -> None:
    http.put(f"{URL}/pathology/requests/r1/artifacts/patch-001.jpg", json={"success": True, "artifact": {}})
    client.put_artifact("r1", LEASE, "patch-001.jpg", b"jpeg")
    headers = http.calls[0].request.headers
    assert headers["Content-Type"] == "image/jpeg"
    assert (headers["X-Pathology-Token"], headers["X-Pathology-Fence"]) == (LEASE.token, "3")


def test_an_artifact_that_arrives_as_something_else_is_noticed(
    client: PluginClient, http: responses.RequestsMock
) -> None:
    http.put(
        f"{URL}/pathology/requests/r1/artifacts/heatmap.png",
        json={"success": True, "artifact": {"sha256": "0" * 64}},
    )
    with pytest.raises(ServerError, match="arrived damaged"):
        client.put_artifact("r1", LEASE, "heatmap.png", b"png")


def test_passwords_beyond_ascii_are_sent_in_utf8() -> None:
    session = make_session(Credentials("lab", "Grünwald"))
    prepared = session.prepare_request(requests.Request("GET", URL))
    assert prepared.headers["Authorization"] == "Basic " + base64.b64encode("lab:Grünwald".encode()).decode()


def test_a_netrc_file_never_replaces_the_user_that_was_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    from pathlib import Path

    netrc = Path(str(tmp_path)) / "netrc"
    netrc.write_text("machine orthanc.test login other password other\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for credentials in (Credentials("lab", "x"), None):
        prepared = make_session(credentials).prepare_request(requests.Request("GET", URL))
        assert base64.b64encode(b"other:other").decode() not in str(prepared.headers)


def test_the_session_says_nothing_about_the_password() -> None:
    session = make_session(Credentials("lab", PASSWORD))
    assert PASSWORD not in repr(session.auth)
    assert PASSWORD not in str(vars(session)["headers"])


def claim_body() -> dict[str, Any]:
    return {
        "request": {"request_id": "r1", "fingerprint": "f"},
        "lease": {"fence": 1, "duration_s": 60, "heartbeat_s": 15, "confirm_s": 15},
        "instances": [
            {
                "id": "i1",
                "sop_instance_uid": "1.2",
                "uuid": "u",
                "size": 1,
                "image_type": ["ORIGINAL", "VOLUME"],
            }
        ],
    }


@pytest.mark.parametrize("missing", ["request", "lease", "instances"])
def test_a_claim_that_lacks_a_part_names_the_version_as_the_likely_cause(missing: str) -> None:
    body = claim_body()
    parse_claim(body, "0" * 32)
    with pytest.raises(ServerError, match=f"'{missing}'.*upgrade the older one"):
        parse_claim({key: value for key, value in body.items() if key != missing}, "0" * 32)


def test_a_heartbeats_answer_without_a_word_means_go_on() -> None:
    answer = parse_heartbeat({"success": True})
    assert (answer.cancel, answer.drain, answer.heartbeat_s) == (False, False, None)


def test_full_jitter_stays_between_nothing_and_the_growing_ceiling() -> None:
    highest = Backoff(base_s=1, cap_s=10, uniform=lambda _low, high: high)
    lowest = Backoff(base_s=1, cap_s=10, uniform=lambda low, _high: low)
    assert [highest.delay(n) for n in range(6)] == [1, 2, 4, 8, 10, 10]
    assert [lowest.delay(n) for n in range(3)] == [0, 0, 0]
    assert highest.delay(1000) == 10
    assert lowest.delay(0, at_least_s=5) == 5


@pytest.mark.parametrize("hostile", ["../../etc/cron.d/x", "a/b", "", ".", "..", "a b", 7])
@pytest.mark.parametrize("where", ["request", "instance"])
def test_an_id_that_could_lead_elsewhere_as_part_of_a_path_is_refused(where: str, hostile: object) -> None:
    body = claim_body()
    target = body["request"] if where == "request" else body["instances"][0]
    target["request_id" if where == "request" else "id"] = hostile
    with pytest.raises(ServerError, match="garbles an id"):
        parse_claim(body, "0" * 32)


def test_a_heartbeat_that_gets_no_answer_is_given_up_long_before_the_lease_ends(
    client: PluginClient, http: responses.RequestsMock
) -> None:
    http.post(f"{URL}/pathology/update-status/r1/", json={"success": True})
    client.heartbeat("r1", Lease("0" * 32, 1, 60, 15, 15), stage="encode", progress=0.5, detail="")
    options: Any = http.calls[0].request.req_kwargs  # type: ignore[attr-defined]
    assert options["timeout"] == (5, 15)
