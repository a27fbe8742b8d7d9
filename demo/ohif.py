# SPDX-License-Identifier: Apache-2.0
"""OHIF for the demo: the pinned package from npm, and nginx that puts it beside Orthanc on one origin."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import requests

from .errors import DemoError
from .server import REPOSITORY, RunningOrthanc, free_port, last_lines, started

CACHE = REPOSITORY / ".cache" / "ohif"
NGINX = Path("/usr/sbin/nginx")
NGINX_FOLDER = REPOSITORY / "docker" / "nginx"
FETCH_SECONDS = 900.0
START_SECONDS = 20.0

VERSION = "3.13.2"
SHA512 = {
    "3.12.10": "0kuF66Mq9c9dMD++bUsTjMrJpXJwaZhz9B4uS244DawAjSkTwIYFU93pxPuRUQixaRi7QAHlF3Fe1qudBlZrmA==",
    "3.13.2": "WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA==",
}
"""Base64, as the npm registry states the integrity of each version of @ohif/app that this was tried with."""

EXTENSION = "/pathology/app/ohif/extension.js"
MODE = "/pathology/app/ohif/mode.js"


def app_config() -> str:
    """Return OHIF's app-config.js for an Orthanc on the same origin, with our extension and mode."""
    source = {
        "friendlyName": "Orthanc",
        "name": "orthanc",
        "qidoRoot": "/dicom-web",
        "wadoRoot": "/dicom-web",
        "wadoUriRoot": "/wado",
        "qidoSupportsIncludeField": False,
        "imageRendering": "wadors",
        "thumbnailRendering": "wadors",
        "enableStudyLazyLoad": True,
        "supportsFuzzyMatching": False,
        "supportsWildcard": True,
        "omitQuotationForMultipartRequest": True,
        "bulkDataURI": {"enabled": True, "relativeResolution": "studies"},
    }
    value = {
        "routerBasename": "/",
        "extensions": [EXTENSION],
        "modes": [MODE],
        "showStudyList": True,
        "defaultDataSourceName": "orthanc",
        "dataSources": [
            {
                "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
                "sourceName": "orthanc",
                "configuration": source,
            }
        ],
    }
    return f"window.config = {json.dumps(value, indent=2)};\n"


def ohif_dist(version: str = VERSION, cache: Path = CACHE) -> Path:
    """Return the folder of OHIF's ready-made files; fetch them from npm where they are not in the cache.

    Raises
    ------
    DemoError
        The version is not pinned here, npm is missing or fails, or the package is not the pinned one.
    """
    if version not in SHA512:
        raise DemoError(f"OHIF {version} is not pinned here. Take one of: {', '.join(SHA512)}")
    dist = cache / version / "dist"
    if not dist.exists():
        cache.mkdir(parents=True, exist_ok=True)
        # Under a name of its own until it is whole: an interrupted fetch leaves no half of a viewer.
        with tempfile.TemporaryDirectory(dir=cache, prefix="fetch-") as folder:
            package = _fetch(version, Path(folder))
            _verify(package, SHA512[version])
            _unpack(package, Path(folder))
            (cache / version).mkdir(exist_ok=True)
            (Path(folder) / "package" / "dist").rename(dist)
    (dist / "app-config.js").write_text(app_config(), "utf-8")
    return dist


def _fetch(version: str, folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise DemoError("npm is not installed, and OHIF comes from there. Run: apt-get install npm")
    command = [npm, "pack", "--silent", f"@ohif/app@{version}"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DemoError(f"npm did not bring OHIF within {FETCH_SECONDS / 60:.0f} minutes.") from error
    packages = list(folder.glob("*.tgz"))
    if done.returncode != 0 or len(packages) != 1:
        raise DemoError(f"npm could not fetch @ohif/app@{version}:\n{done.stderr.strip()[-1000:]}")
    return packages[0]


def _verify(package: Path, wanted: str) -> None:
    with package.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    if base64.b64encode(digest).decode("ascii") != wanted:
        raise DemoError(f"{package.name} is not the package that is pinned here; nothing was unpacked.")


def _unpack(package: Path, folder: Path) -> None:
    """Unpack the viewer without its source maps, a fifth of it that only its own developers read."""
    with tarfile.open(package) as archive:
        members = [
            member
            for member in archive.getmembers()
            if member.name.startswith("package/dist/") and not member.name.endswith(".map")
        ]
        archive.extractall(folder, members, filter="data")


def nginx_configuration(folder: Path, dist: Path, port: int, orthanc_port: int) -> str:
    """Return a whole nginx configuration around the files of `docker/nginx/`, for one user and one port."""
    temporary = "\n".join(
        f"    {name}_temp_path {folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    include /etc/nginx/mime.types;
    types {{ text/javascript mjs; }}
    access_log off;
{temporary}
    include {NGINX_FOLDER}/http.conf;
    upstream orthanc {{ server 127.0.0.1:{orthanc_port}; }}
    server {{
        listen 127.0.0.1:{port};
        root {dist};
        include {NGINX_FOLDER}/origin.conf;
    }}
}}
"""


@contextmanager
def one_origin(folder: Path, dist: Path, orthanc_port: int, port: int | None = None) -> Iterator[str]:
    """Run nginx in front of OHIF and an Orthanc; yield the address of both.

    Parameters
    ----------
    folder
        Folder for nginx's own files; made where it is missing.
    dist
        OHIF's files, see `ohif_dist`.
    orthanc_port
        Port of the Orthanc on this machine.
    port
        Port to answer on; a free one where it is None.

    Raises
    ------
    DemoError
        nginx is not installed, or does not answer.
    """
    if not NGINX.exists():
        raise DemoError("nginx is not installed. Run: apt-get install --no-install-recommends nginx-light")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port() if port is None else port
    configuration = folder / "nginx.conf"
    configuration.write_text(nginx_configuration(folder, dist, port, orthanc_port), "utf-8")
    log = folder / "nginx.log"
    url = f"http://127.0.0.1:{port}"
    command = [str(NGINX), "-p", str(folder), "-c", str(configuration), "-e", "stderr"]
    with started(command, os.environ, log) as process:
        _wait_until_ready(url, process, log)
        yield url


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DemoError(f"nginx ended at start. Its log ({log}) ends:\n{last_lines(log)}")
        try:
            if requests.get(f"{url}/app-config.js", timeout=5).ok:
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.05)
    raise DemoError(f"nginx did not answer within {START_SECONDS:.0f} s. Its log: {log}")


@contextmanager
def ohif_beside(
    orthanc: RunningOrthanc, series: str, dist: Path | None, folder: Path
) -> Iterator[str | None]:
    """Show a slide of the demo's Orthanc in OHIF; yield the address, or None where there is no OHIF.

    Parameters
    ----------
    orthanc
        The demo's server.
    series
        Orthanc id of the slide.
    dist
        OHIF's files, see `ohif_dist`; None for a demo without OHIF.
    folder
        Folder for nginx's own files.
    """
    if dist is None:
        yield None
        return
    study = requests.get(f"{orthanc.url}/series/{series}/study", auth=orthanc.person, timeout=30).json()
    port = urlsplit(orthanc.url).port
    if port is None:
        raise DemoError(f"The demo's Orthanc has an address without a port: {orthanc.url}")
    with one_origin(folder, dist, port) as url:
        yield f"{url}/microscopy?StudyInstanceUIDs={study['MainDicomTags']['StudyInstanceUID']}"
