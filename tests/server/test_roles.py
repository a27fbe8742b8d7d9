# SPDX-License-Identifier: Apache-2.0
"""Roles on a real Orthanc: its native routes, tried in the spellings it understands."""

from __future__ import annotations

import base64
import http.client
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.support.orthanc_server import OrthancServer

pytestmark = pytest.mark.server

BROWSER = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64)", "Accept-Language": "ko"}


def raw_status(
    server: OrthancServer,
    method: str,
    path: str,
    auth: tuple[str, str],
    headers: Mapping[str, str] | None = None,
) -> int:
    """Send a request whose path no client library tidies up."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.putrequest(method, path, skip_accept_encoding=True)
    credentials = base64.b64encode(":".join(auth).encode()).decode()
    body = b"forged" if method in {"PUT", "POST"} else b""
    for name, value in {"Authorization": f"Basic {credentials}", **(headers or {})}.items():
        connection.putheader(name, value)
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/series/{}/metadata/5000"),
        ("PUT", "/series/{}/metadata/05000"),
        ("PUT", "/series/{}/metadata/PathologyState"),
        ("PUT", "/series/{}/metadata/5000/"),
        ("PUT", "//series//{}//metadata//5000"),
        ("PUT", "/series/{}/metadata/%35000"),
        ("PUT", "/series/{}/metadata/%2e/5000"),
        ("PUT", "/instances/../series/{}/metadata/5000"),
        ("PUT", "/series/{}%2fmetadata%2f5000"),
        ("PUT", "/series/{}/metadata/5002"),
        ("PUT", "/series/{}/metadata/5100"),
        ("DELETE", "/series/{}/metadata/5100"),
        ("DELETE", "/series/{}/metadata/5000"),
        ("GET", "/series/{}/metadata/5000?_method=delete"),
        ("GET", "/series/{}/metadata/5000?_method=PUT"),
        ("PUT", "/series/{}/attachments/5100"),
        ("PUT", "/series/{}/attachments/05100"),
        ("DELETE", "/series/{}/attachments/5100"),
        ("POST", "/series/{}/attachments/5100/compress"),
    ],
)
@pytest.mark.parametrize("who", ["person", "worker"])
def test_nobody_writes_our_numbers_natively(
    orthanc: OrthancServer, slide_series: str, who: str, method: str, path: str
) -> None:
    before = orthanc.get(f"/series/{slide_series}/metadata/5000").content
    auth = orthanc.person if who == "person" else orthanc.worker
    assert raw_status(orthanc, method, path.format(slide_series), auth) == 403
    assert orthanc.get(f"/series/{slide_series}/metadata/5000").content == before
    assert "5002" not in orthanc.get(f"/series/{slide_series}/metadata").text


def test_a_faked_method_by_header_is_judged_as_what_it_does(
    orthanc: OrthancServer, slide_series: str
) -> None:
    headers = {"X-HTTP-Method-Override": "DELETE"}
    path = f"/series/{slide_series}/metadata/5000"
    assert raw_status(orthanc, "GET", path, orthanc.person, headers) == 403


def test_a_person_keeps_what_orthanc_offers(orthanc: OrthancServer, slide_series: str) -> None:
    path = f"/series/{slide_series}/metadata/4000"
    assert raw_status(orthanc, "PUT", path, orthanc.person) == 200
    assert raw_status(orthanc, "DELETE", path, orthanc.person) == 200
    assert raw_status(orthanc, "GET", "/patients", orthanc.person) == 200


@pytest.mark.parametrize(
    "path",
    [
        "/patients",
        "/studies",
        "/series",
        "/instances",
        "/series/{}",
        "/series/{}/metadata",
        "/series/{}/archive",
        "/dicom-web/studies",
        "/dicom-web/series",
        "/changes",
        "/statistics",
        "/tools/now",
        "/app/explorer.html",
        "/wsi/pyramids/{}",
        "/system/../patients",
        "/%70atients",
        "/modalities",
    ],
)
def test_a_worker_sees_no_patient(orthanc: OrthancServer, slide_series: str, path: str) -> None:
    assert raw_status(orthanc, "GET", path.format(slide_series), orthanc.worker) == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/instances"),
        ("POST", "/tools/find"),
        ("POST", "/tools/bulk-content"),
        ("POST", "/tools/bulk-delete"),
        ("POST", "/tools/execute-script"),
        ("POST", "/tools/shutdown"),
        ("POST", "/tools/reset"),
        ("PUT", "/tools/log-level"),
        ("DELETE", "/series/{}"),
        ("GET", "/series/{}?_method=delete"),
        ("POST", "/dicom-web/studies"),
        ("POST", "/pathology/analyze"),
        ("POST", "/pathology/requests/x/cancel"),
    ],
)
def test_a_worker_changes_nothing(orthanc: OrthancServer, slide_series: str, method: str, path: str) -> None:
    assert raw_status(orthanc, method, path.format(slide_series), orthanc.worker) == 403
    assert orthanc.get(f"/series/{slide_series}").ok


@pytest.mark.parametrize("path", ["/system", "/pathology/pending-requests/", "/pathology/health"])
def test_a_worker_sees_what_it_works_with(orthanc: OrthancServer, path: str) -> None:
    assert raw_status(orthanc, "GET", path, orthanc.worker) == 200


@pytest.mark.parametrize("path", ["/pathology/claim", "/pathology/update-status/x/"])
def test_a_person_does_no_workers_work(orthanc: OrthancServer, path: str) -> None:
    assert raw_status(orthanc, "POST", path, orthanc.person) == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/pathology/analyze"),
        ("POST", "/instances"),
        ("POST", "/tools/reset"),
        ("DELETE", "/series/{}"),
        ("PUT", "/series/{}/metadata/4000"),
    ],
)
@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_pages_of_other_sites_change_nothing(
    orthanc: OrthancServer, slide_series: str, method: str, path: str, origin: str
) -> None:
    headers = {**BROWSER, "Origin": origin, "Content-Type": "text/plain"}
    assert raw_status(orthanc, method, path.format(slide_series), orthanc.person, headers) == 403
    assert orthanc.get(f"/series/{slide_series}").ok


@pytest.mark.parametrize(
    "headers", [{}, {"Referer": "https://evil.example/"}, {"Sec-Fetch-Site": "cross-site"}]
)
def test_a_picture_on_another_site_deletes_no_slide(
    orthanc: OrthancServer, slide_series: str, headers: dict[str, str]
) -> None:
    path = f"/series/{slide_series}?_method=delete"
    assert raw_status(orthanc, "GET", path, orthanc.person, {**BROWSER, **headers}) == 403
    assert orthanc.get(f"/series/{slide_series}").ok


def test_orthancs_own_pages_may_write(orthanc: OrthancServer, slide_series: str) -> None:
    headers = {**BROWSER, "Origin": orthanc.url, "Referer": f"{orthanc.url}/app/explorer.html"}
    path = f"/series/{slide_series}/metadata/4001"
    assert raw_status(orthanc, "PUT", path, orthanc.person, headers) == 200


def test_no_password_reaches_the_log(orthanc: OrthancServer, slide_series: str) -> None:
    orthanc.get("/pathology/requests/", auth=orthanc.worker)
    for name, password in (orthanc.person, orthanc.worker):
        assert password not in orthanc.log()
        assert base64.b64encode(f"{name}:{password}".encode()).decode() not in orthanc.log()


@pytest.fixture(scope="module")
def behind_proxy() -> Iterator[OrthancServer]:
    """Return a server that checks no passwords itself: a proxy on the same machine names the user."""
    overrides = {
        "AuthenticationEnabled": False,
        "Pathology": {"TrustedUserHeader": "X-Remote-User", "Monitors": ["prometheus"]},
    }
    with OrthancServer(overrides=overrides) as running:
        yield running


@pytest.mark.parametrize(
    ("headers", "path", "expected"),
    [
        ({}, "/system", 403),
        ({}, "/pathology/requests/", 403),
        ({"X-Remote-User": "alice"}, "/patients", 200),
        ({"X-Remote-User": "alice"}, "/pathology/requests/", 200),
        ({"X-Remote-User": "worker"}, "/patients", 403),
        ({"X-Remote-User": "WORKER"}, "/patients", 403),
        ({"X-Remote-User": "Worker"}, "/pathology/requests/", 200),
        ({"X-Remote-User": "worker"}, "/pathology/requests/", 200),
        ({"X-Remote-User": "prometheus"}, "/pathology/health", 200),
        ({"X-Remote-User": "prometheus"}, "/system", 403),
        ({"X-Remote-User": ""}, "/system", 403),
    ],
)
def test_behind_a_proxy_only_its_header_names_anybody(
    behind_proxy: OrthancServer, headers: dict[str, str], path: str, expected: int
) -> None:
    # The Authorization header that goes along was checked by nobody.
    assert raw_status(behind_proxy, "GET", path, behind_proxy.person, headers) == expected


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"RegisteredUsers": {"admin": ""}}, "admin has an empty password"),
        ({"RegisteredUsers": None}, "RegisteredUsers names nobody"),
        ({"AuthenticationEnabled": False}, "AuthenticationEnabled must be true"),
        ({"Pathology": {"Worker": ["lab"]}}, "Pathology.Worker is no setting"),
        ({"Pathology": {"Audit": "/nonexistent/audit.log"}}, "Pathology.Audit names a file"),
    ],
)
def test_orthanc_does_not_start_with_a_configuration_that_protects_nothing(
    overrides: dict[str, Any], sentence: str
) -> None:
    server = OrthancServer(overrides=overrides)
    server.start(wait=False)
    code = server.wait_end()
    log = server.log()
    server.discard()
    assert code != 0
    assert sentence in log
