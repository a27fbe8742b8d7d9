# SPDX-License-Identifier: Apache-2.0
"""A hospital and a lab on this machine: the proxy that we ship, a private CA, and a way out through squid."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.certificates import make_certificates
from tests.support.orthanc_server import ROOT, OrthancServer, free_port

NAME = "pathology.example"
"""As in `docker/nginx/site.conf`. Only squid knows where that is: who gets there went through it."""

NGINX, SQUID = (shutil.which(name, path="/usr/sbin:/usr/bin") for name in ("nginx", "squid"))

SQUID_CONFIGURATION = """
http_port 127.0.0.1:{port}
acl hospital dstdomain {name}
http_access allow hospital
http_access deny all
hosts_file {folder}/hosts
cache deny all
access_log stdio:{folder}/squid-access.log
logfile_rotate 0
cache_log {folder}/squid.log
pid_filename {folder}/squid.pid
coredump_dir {folder}
shutdown_lifetime 0 seconds
visible_hostname proxy.lab.example
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("DEPLOY") == "1":
        return
    mark = pytest.mark.skip(reason="takes minutes: make test-deploy")
    for item in items:
        if "tests/deploy/" in item.path.as_posix():
            item.add_marker(mark)


@dataclass(frozen=True)
class Hospital:
    """Orthanc behind nginx with TLS, and the lab's way to it.

    Attributes
    ----------
    orthanc
        The server itself, as from inside.
    url
        Its address, as from outside.
    plain
        The same without TLS.
    ca
        The file of the private CA.
    proxy
        Address of the lab's forward proxy.
    folder
        Where the logs lie.
    """

    orthanc: OrthancServer
    url: str
    plain: str
    ca: Path
    proxy: str
    folder: Path

    def call(self, method: str, path: str, *, url: str | None = None, **options: Any) -> requests.Response:
        """Send a request the way that the lab does, as the person unless told otherwise."""
        options.setdefault("auth", self.orthanc.person)
        options.setdefault("timeout", 60)
        proxies = {"https": self.proxy, "http": self.proxy}
        return requests.request(
            method, (url or self.url) + path, verify=str(self.ca), proxies=proxies, **options
        )

    def proxied(self) -> str:
        """Return what squid has let through or refused."""
        return (self.folder / "squid-access.log").read_text("utf-8")


@pytest.fixture(scope="module")
def hospital() -> Iterator[Hospital]:
    if NGINX is None or SQUID is None:
        pytest.skip("needs nginx and squid: apt-get install nginx-light squid")
    with tempfile.TemporaryDirectory(prefix="hospital-") as name, OrthancServer() as orthanc:
        folder = Path(name)
        folder.chmod(0o777)  # squid leaves root's rights
        make_certificates(folder, NAME)
        https, http, proxy = free_port(), free_port(), free_port()
        write_nginx(folder, orthanc.port, https, http)
        (folder / "hosts").write_text(f"127.0.0.1 {NAME}\n", "utf-8")
        text = SQUID_CONFIGURATION.format(port=proxy, name=NAME, folder=folder)
        (folder / "squid.conf").write_text(text, "utf-8")
        nginx = [str(NGINX), "-p", name, "-c", f"{name}/nginx.conf", "-e", f"{name}/nginx-error.log"]
        squid = [str(SQUID), "-N", "-f", f"{name}/squid.conf"]
        with running([*nginx, "-g", "daemon off;"]), running(squid):
            site = Hospital(
                orthanc,
                f"https://{NAME}:{https}",
                f"http://{NAME}:{http}",
                folder / "ca.pem",
                f"http://127.0.0.1:{proxy}",
                folder,
            )
            wait_until_there(site)
            yield site


def write_nginx(folder: Path, orthanc: int, https: int, http: int) -> None:
    """Write the site's configuration that we ship, with this machine's paths and ports."""
    text = (ROOT / "docker/nginx/site.conf").read_text("utf-8")
    for old, new in (
        ("/etc/nginx/pathology", str(ROOT / "docker/nginx")),
        ("/etc/ssl/pathology", str(folder)),
        ("127.0.0.1:8042", f"127.0.0.1:{orthanc}"),
        ("https://$host$request_uri", f"https://$host:{https}$request_uri"),
    ):
        assert old in text
        text = text.replace(old, new)
    text = re.sub(r"^ *listen \[::\].*$", "", text, flags=re.MULTILINE)
    for usual, port in ((443, https), (80, http)):
        text = text.replace(f"listen {usual}", f"listen 127.0.0.1:{port}")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    (folder / "nginx.conf").write_text(
        f"pid {folder}/nginx.pid;\nevents {{ worker_connections 1024; }}\n"
        f"http {{\naccess_log off;\n{temporary}\n{text}\n}}\n",
        "utf-8",
    )


@contextmanager
def running(command: list[str]) -> Iterator[None]:
    """Run a program beside the test, and end it."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        yield
        assert process.poll() is None, process.communicate()[0].decode()
    finally:
        process.terminate()
        process.communicate(timeout=20)


def wait_until_there(site: Hospital) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            if site.call("GET", "/system").status_code == 200:
                return
        except requests.ConnectionError:
            pass
        assert time.monotonic() < deadline, [path.name for path in site.folder.iterdir()]
        time.sleep(0.2)
