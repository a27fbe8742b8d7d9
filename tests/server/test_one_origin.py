# SPDX-License-Identifier: Apache-2.0
"""The nginx configuration that we ship, in front of a real Orthanc (OHIF: `tests/browser/test_ohif.py`)."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from demo.ohif import NGINX, NGINX_FOLDER, one_origin
from tests.support.dicom_files import slide_folder
from tests.support.orthanc_server import OrthancServer, free_port, store_slide

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(not NGINX.exists(), reason="needs nginx: apt-get install nginx-light"),
]

PAGE = "<!doctype html><title>OHIF</title>"


@pytest.fixture(scope="module")
def site(orthanc: OrthancServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of nginx with a page in OHIF's place."""
    folder = tmp_path_factory.mktemp("nginx")
    dist = folder / "dist"
    dist.mkdir()
    (dist / "index.html").write_text(PAGE, "utf-8")
    (dist / "app-config.js").write_text("window.config = {};" * 100, "utf-8")
    with one_origin(folder / "nginx", dist, orthanc.port, free_port()) as url:
        yield url


def test_a_page_of_ohif_is_given_to_who_may_enter_orthanc(site: str, orthanc: OrthancServer) -> None:
    refused = requests.get(f"{site}/microscopy?StudyInstanceUIDs=1.2", timeout=10)
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"].startswith("Basic")
    shown = requests.get(f"{site}/microscopy?StudyInstanceUIDs=1.2", auth=orthanc.person, timeout=10)
    assert (shown.status_code, shown.text) == (200, PAGE)
    assert "text/html" in shown.headers["Content-Type"]


@pytest.mark.parametrize(
    "path",
    ["/system", "/app/explorer.html", "/dicom-web/studies", "/pathology/health", "/api/pathology/health"],
)
def test_orthancs_routes_are_orthancs(site: str, orthanc: OrthancServer, path: str) -> None:
    assert requests.get(f"{site}{path}", auth=orthanc.person, timeout=10).status_code == 200
    assert requests.get(f"{site}{path}", timeout=10).status_code == 401


def test_a_page_of_this_origin_may_change_things_and_one_of_another_may_not(
    site: str, orthanc: OrthancServer
) -> None:
    for origin, status in ((site, 400), ("https://elsewhere.example", 403)):
        answer = requests.post(
            f"{site}/pathology/analyze",
            auth=orthanc.person,
            json={},
            headers={"Origin": origin},
            timeout=10,
        )
        assert answer.status_code == status, answer.text


def test_posts_after_a_pause_do_not_meet_a_connection_that_orthanc_has_ended(
    site: str, orthanc: OrthancServer
) -> None:
    with requests.Session() as session:
        session.auth = orthanc.person
        answers = {
            session.post(f"{site}/tools/lookup", data="1.2.3", timeout=10).status_code for _ in range(200)
        }
    assert answers == {200}


def test_a_result_of_64_mb_gets_through_and_a_flood_does_not(site: str, orthanc: OrthancServer) -> None:
    url = f"{site}/tools/lookup"
    through = requests.post(url, auth=orthanc.person, data=b"1" * 64_000_000, timeout=60)
    assert through.status_code != 413
    flood = requests.post(
        url, auth=orthanc.person, headers={"Content-Length": "200000000"}, data=b"", timeout=10
    )
    assert flood.status_code == 413


def test_metadata_of_slides_is_compressed_on_the_way(site: str, orthanc: OrthancServer) -> None:
    series = store_slide(orthanc, slide_folder())
    uid = orthanc.get(f"/series/{series}").json()["MainDicomTags"]["SeriesInstanceUID"]
    study = orthanc.get(f"/series/{series}/study").json()["MainDicomTags"]["StudyInstanceUID"]
    url = f"{site}/dicom-web/studies/{study}/series/{uid}/metadata"
    answer = requests.get(url, auth=orthanc.person, timeout=30)
    assert answer.status_code == 200
    assert answer.headers["Content-Encoding"] == "gzip"


def test_a_client_that_never_ends_its_head_takes_no_thread_of_orthancs(
    site: str, orthanc: OrthancServer
) -> None:
    host, port = site.removeprefix("http://").split(":")
    slow = [socket.create_connection((host, int(port)), timeout=10) for _ in range(60)]
    try:
        for one in slow:
            one.sendall(b"GET /system HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        assert requests.get(f"{site}/system", auth=orthanc.person, timeout=10).status_code == 200
    finally:
        for one in slow:
            one.close()


def test_the_sites_example_with_tls_is_a_configuration_that_nginx_takes(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "fullchain.pem"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=pathology.example"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*request, *files], check=True, capture_output=True)
    text = (NGINX_FOLDER / "site.conf").read_text("utf-8")
    text = text.replace("/etc/nginx/pathology", str(NGINX_FOLDER)).replace(
        "/etc/ssl/pathology", str(tmp_path)
    )
    text = re.sub(r"listen (\[::\]:)?\d+", lambda match: f"listen {match[1] or ''}{free_port()}", text)
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(f"pid {tmp_path}/pid; events {{ }} http {{ {text} }}", "utf-8")
    done = subprocess.run(
        [str(NGINX), "-t", "-c", str(configuration), "-e", "stderr"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr
