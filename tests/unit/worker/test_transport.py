# SPDX-License-Identifier: Apache-2.0
"""Proxies and private CAs, as hospitals have them: requests' own settings are honoured."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.support.scripted_server import ScriptedServer
from tests.unit.worker.conftest import QUICK
from worker.api.calls import Retry
from worker.api.client import PluginClient
from worker.errors import ServerError, UnreachableError
from worker.settings_reading import load_settings

ONCE = Retry(attempts=1, backoff=QUICK.backoff)


def client_of(url: str) -> PluginClient:
    return PluginClient(load_settings({"ORTHANC_URL": url}), None, retry=ONCE)


def test_a_proxy_of_the_environment_is_used(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    with pytest.raises(ServerError):
        client_of("http://orthanc.example").health()
    assert [call.path for call in server.calls] == ["http://orthanc.example/pathology/health"]


def test_no_proxy_is_used_for_whom_it_excludes(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(ServerError):
        client_of(server.url).health()
    assert [call.path for call in server.calls] == ["/pathology/health"]


class Healthy(BaseHTTPRequestHandler):
    """Answers like the plugin's health route."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"success": true, "api": 1}')

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for this machine that no public CA has signed, with its key in the same file."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    path, key = tmp_path / "ca.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=hospital", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "2", "-keyout", str(key), "-out", str(path), *subject]
    subprocess.run(command, check=True, capture_output=True)
    path.write_text(path.read_text() + key.read_text())
    return path


@pytest.fixture
def tls_url(certificate: Path) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with HTTPServer(("127.0.0.1", 0), Healthy) as https:
        https.handle_error = lambda *_: None  # type: ignore[method-assign]
        https.socket = context.wrap_socket(https.socket, server_side=True)
        thread = threading.Thread(target=https.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{https.server_address[1]}"
        https.shutdown()
        thread.join()


def test_a_certificate_of_an_unknown_ca_is_refused_with_the_fix(tls_url: str) -> None:
    with pytest.raises(UnreachableError, match="REQUESTS_CA_BUNDLE"):
        client_of(tls_url).health()


def test_a_port_that_speaks_no_tls_is_not_called_a_matter_of_certificates(server: ScriptedServer) -> None:
    with pytest.raises(UnreachableError, match="speaks no TLS: use http://") as raised:
        client_of(server.url.replace("http:", "https:")).health()
    assert "certificate" not in str(raised.value)


def test_a_private_ca_of_the_environment_is_trusted(
    tls_url: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    assert client_of(tls_url).health()["api"] == 1


def test_a_certificate_that_does_not_fit_is_refused_with_openssls_reason(
    tls_url: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with pytest.raises(
        UnreachableError, match=r"refused \(.*not valid for 'localhost'\): correct the address"
    ):
        client_of(tls_url.replace("127.0.0.1", "localhost")).health()
