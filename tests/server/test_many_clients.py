# SPDX-License-Identifier: Apache-2.0
"""Many clients at once: 200 of them through the nginx configuration that we ship, 40 directly."""

from __future__ import annotations

import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from demo.ohif import NGINX, one_origin
from tests.support.orthanc_server import OrthancServer, free_port

pytestmark = pytest.mark.server
THROUGH_NGINX = 200
DIRECTLY = 40
needs_nginx = pytest.mark.skipif(not NGINX.exists(), reason="needs nginx: apt-get install nginx-light")


@pytest.fixture(scope="module")
def proxied(orthanc: OrthancServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of nginx in front of Orthanc."""
    folder = tmp_path_factory.mktemp("nginx")
    dist = folder / "dist"
    dist.mkdir()
    (dist / "app-config.js").write_text("window.config = {};", "utf-8")
    with one_origin(folder / "nginx", dist, orthanc.port, free_port()) as url:
        yield url


def read(url: str, orthanc: OrthancServer) -> int:
    return requests.get(f"{url}/pathology/requests/", auth=orthanc.person, timeout=60).status_code


def wait_for_work(url: str, orthanc: OrthancServer) -> int:
    body = {"worker_id": f"w-{secrets.token_hex(4)}", "token": secrets.token_hex(16), "api": 1, "wait": 3}
    return requests.post(f"{url}/pathology/claim", auth=orthanc.worker, json=body, timeout=60).status_code


def all_at_once(clients: list[Callable[[], int]]) -> Counter[int]:
    """Return how many clients got which status."""
    with ThreadPoolExecutor(len(clients)) as pool:
        return Counter(pool.map(lambda client: client(), clients))


@needs_nginx
def test_200_clients_through_nginx_are_all_answered(proxied: str, orthanc: OrthancServer) -> None:
    waiting = [lambda: wait_for_work(proxied, orthanc)] * (THROUGH_NGINX // 2)
    reading = [lambda: read(proxied, orthanc)] * (THROUGH_NGINX // 2)
    assert all_at_once([*waiting, *reading]) == {204: THROUGH_NGINX // 2, 200: THROUGH_NGINX // 2}


@needs_nginx
def test_bodies_that_come_byte_by_byte_hold_up_nobody(proxied: str, orthanc: OrthancServer) -> None:
    host, port = proxied.removeprefix("http://").split(":")
    slow = [socket.create_connection((host, int(port)), timeout=10) for _ in range(THROUGH_NGINX)]
    try:
        for one in slow:
            head = b"POST /pathology/claim HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            one.sendall(head + b"Content-Length: 100\r\n\r\n{")
        started = time.monotonic()
        assert read(proxied, orthanc) == 200
        assert time.monotonic() - started < 2
    finally:
        for one in slow:
            one.close()


def test_40_clients_are_all_answered_by_orthanc_itself(orthanc: OrthancServer) -> None:
    waiting = [lambda: wait_for_work(orthanc.url, orthanc)] * (DIRECTLY // 2)
    reading = [lambda: read(orthanc.url, orthanc)] * (DIRECTLY // 2)
    assert all_at_once([*waiting, *reading]) == {204: DIRECTLY // 2, 200: DIRECTLY // 2}
