# SPDX-License-Identifier: Apache-2.0
"""Roles on a real Orthanc: its native routes, tried in the spellings it understands."""

from __future__ import annotations

import base64
import http.client
from collections.abc import Mapping

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
    path = f"/series/{slide_series}/metadata/6000"
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
        ("PUT", "/series/{}/metadata/6000"),
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
    path = f"/series/{slide_series}/metadata/6001"
    assert raw_status(orthanc, "PUT", path, orthanc.person, headers) == 200


def test_no_password_reaches_the_log(orthanc: OrthancServer, slide_series: str) -> None:
    orthanc.get("/pathology/requests/", auth=orthanc.worker)
    for name, password in (orthanc.person, orthanc.worker):
        assert password not in orthanc.log()
        assert base64.b64encode(f"{name}:{password}".encode()).decode() not in orthanc.log()
