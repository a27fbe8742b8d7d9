# SPDX-License-Identifier: Apache-2.0
"""TLS with a private CA in front of Orthanc, and a worker that gets there through a forward proxy only."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.deploy.conftest import NAME, Hospital
from tests.support.dicom_files import another_slide
from tests.support.orthanc_server import store_file
from tests.support.worker_process import WorkerProcess, wait_until_ended


def lab(hospital: Hospital, folder: Path, **environment: str) -> WorkerProcess:
    return WorkerProcess(
        hospital.url,
        worker=hospital.orthanc.worker,
        person=hospital.orthanc.person,
        folder=folder,
        environment={
            "HTTPS_PROXY": hospital.proxy,
            "NO_PROXY": "",
            "no_proxy": "",
            "REQUESTS_CA_BUNDLE": str(hospital.ca),
            **environment,
        },
    )


def doctor(worker: WorkerProcess) -> dict[str, dict[str, str]]:
    told = json.loads(worker.command("doctor", "--json").stdout)
    return {finding["check"]: finding for finding in told["findings"]}


@pytest.fixture
def slow_clients(hospital: Hospital) -> Iterator[list[socket.socket]]:
    """Sixty clients that send half of a request's head over TLS, more than Orthanc has threads."""
    context = ssl.create_default_context(cafile=str(hospital.ca))
    port = int(hospital.url.rsplit(":", 1)[1])

    def half_sent(_number: int) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", port), timeout=60)
        client = context.wrap_socket(plain, server_hostname=NAME)
        client.sendall(b"GET /system HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        return client

    with ThreadPoolExecutor(10) as pool:
        clients = list(pool.map(half_sent, range(60)))
    yield clients
    for client in clients:
        client.close()


def test_a_whole_analysis_passes_through_proxy_and_tls(hospital: Hospital, tmp_path: Path) -> None:
    series = store_file(hospital.orthanc, another_slide(tmp_path, container_id="glass"))["ParentSeries"]
    with lab(hospital, tmp_path / "lab") as worker:
        answer = hospital.call("POST", "/pathology/analyze", json={"series": series}).json()
        request = wait_until_ended(hospital.orthanc.url, hospital.orthanc.person, answer["request_id"])
        assert request["status"] == "completed", worker.log()
    result = hospital.call("GET", f"/pathology/requests/{answer['request_id']}").json()["request"]["result"]
    assert result["artifacts"]
    picture = hospital.call("GET", f"/pathology/requests/{answer['request_id']}/artifacts/heatmap.png")
    assert picture.content.startswith(b"\x89PNG")
    lines = [line.split() for line in hospital.proxied().splitlines()]
    assert {(line[5], line[6].split(":")[0]) for line in lines} == {("CONNECT", NAME)}


def test_the_doctor_finds_nothing_wrong_on_this_way(hospital: Hospital, tmp_path: Path) -> None:
    found = doctor(lab(hospital, tmp_path))
    assert {check for check, finding in found.items() if finding["verdict"] == "failed"} == set()
    assert {found[check]["verdict"] for check in ("certificate", "origin", "private CA", "clock")} == {"ok"}
    assert "TLSv1.3" in found["certificate"]["message"]


@pytest.mark.parametrize(
    ("wrong", "fix"),
    [
        ({"REQUESTS_CA_BUNDLE": ""}, "certificate is not trusted here: set REQUESTS_CA_BUNDLE"),
        ({"HTTPS_PROXY": "http://127.0.0.1:9"}, "the proxy does not let it through: check HTTPS_PROXY"),
        (
            {"ORTHANC_URL": "https://elsewhere.example"},
            "the proxy does not let it through: check",
        ),
    ],
)
def test_the_doctor_names_the_fix_of_what_is_wrong(
    hospital: Hospital, tmp_path: Path, wrong: dict[str, str], fix: str
) -> None:
    finding = doctor(lab(hospital, tmp_path, **wrong))["Orthanc"]
    assert (finding["verdict"], fix in finding["message"]) == ("failed", True), finding


def test_a_long_poll_is_held_all_the_way(hospital: Hospital) -> None:
    body = {"worker_id": "poll", "token": "0" * 32, "api": 1, "wait": 30, "models": [{"name": "m"}]}
    begun = time.monotonic()
    answer = hospital.call("POST", "/pathology/claim", json=body, auth=hospital.orthanc.worker, timeout=90)
    assert answer.status_code == 204
    assert time.monotonic() - begun > 28


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(hospital: Hospital) -> None:
    flood = hospital.call("POST", "/instances", data=b"", headers={"Content-Length": "4000000000"})
    assert flood.status_code == 413


def test_slow_clients_hold_nobody_up_and_are_cut_off(
    hospital: Hospital, slow_clients: list[socket.socket]
) -> None:
    begun = time.monotonic()
    assert hospital.call("GET", "/system").status_code == 200
    assert time.monotonic() - begun < 10
    for client in slow_clients:
        try:
            answer = client.recv(1000)
        except ConnectionResetError:
            continue
        assert answer == b"" or b"408" in answer
    assert time.monotonic() - begun < 60


def test_plain_http_leads_to_tls_and_tls_asks_to_stay(hospital: Hospital) -> None:
    moved = hospital.call("GET", "/system", url=hospital.plain, allow_redirects=False)
    assert (moved.status_code, moved.headers["Location"]) == (301, f"{hospital.url}/system")
    assert "max-age" in hospital.call("GET", "/system").headers["Strict-Transport-Security"]


def test_the_certificate_is_checked(hospital: Hospital) -> None:
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"{hospital.url}/system", proxies={"https": hospital.proxy}, timeout=30)


def test_a_page_of_another_site_may_change_nothing(hospital: Hospital) -> None:
    for origin, status in ((hospital.url, 400), ("https://elsewhere.example", 403)):
        answer = hospital.call("POST", "/pathology/analyze", json={}, headers={"Origin": origin})
        assert answer.status_code == status
