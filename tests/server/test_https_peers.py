# SPDX-License-Identifier: Apache-2.0
"""Orthanc as a client: whose certificates it trusts when it calls https peers."""

from __future__ import annotations

import shutil
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.support.certificates import make_certificates
from tests.support.orthanc_server import OrthancServer

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl: apt-get install openssl"),
]


class Peer(BaseHTTPRequestHandler):
    """Says that it is there."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header(
            "Content-Length", "2"
        )  # newer libcurls do not take a connection's end for the body's
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[str]:
    """The address of an https server whose certificate a private authority signed."""
    make_certificates(tmp_path, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "fullchain.pem", tmp_path / "key.pem")
    with HTTPServer(("127.0.0.1", 0), Peer) as https:
        https.handle_error = lambda *_: None  # type: ignore[method-assign]
        https.socket = context.wrap_socket(https.socket, server_side=True)
        thread = threading.Thread(target=https.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"https://localhost:{https.server_address[1]}/"
        https.shutdown()
        thread.join()


@pytest.mark.parametrize(("named", "status"), [("ca.pem", 200), (None, 500), ("missing.pem", 500)])
def test_a_peer_is_called_if_the_named_authority_vouches_for_it(
    peer: str, tmp_path: Path, named: str | None, status: int
) -> None:
    environment = {} if named is None else {"ORTHANC_CA_CERTIFICATES": str(tmp_path / named)}
    with OrthancServer(overrides={"OrthancPeers": {"other": [peer]}}, environment=environment) as orthanc:
        assert orthanc.get("/peers/other/system").status_code == status
        assert orthanc.get("/pathology/health").status_code == 200
