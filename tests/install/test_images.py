# SPDX-License-Identifier: Apache-2.0
"""The images: made by their Dockerfiles' steps in clean folders, run as `docker/compose.yml` runs them.

No engine is needed: systemd-nspawn does the steps, and gives read-only roots, users and secrets.
What an engine adds is not shown: its own base images, its network and volumes.
"""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import pytest
import requests
import yaml

from tests.install.debian import ROOT, bootstrapped, copied, end, inside, pip_of_this_machine
from tests.install.dockerfile import Image, instructions
from tests.support.dicom_files import volume_file
from tests.support.orthanc_server import expand, free_port
from tests.support.worker_process import wait_until_ended

BASES = {
    "debian:forky-slim": ("forky", ""),
    # The official image has a Python of its own below /usr/local; the version is Debian's as well.
    "python:3.11-slim-bookworm": (
        "bookworm",
        (
            "apt-get update -q && apt-get install -q -y --no-install-recommends python3 python3-venv"
            " && python3 -m venv /usr/local"
        ),
    ),
}
"""Of each base image the Debian below it, and what else is in it."""


@contextmanager
def image(name: str) -> Iterator[Image]:
    """Make the image of one of our Dockerfiles."""
    dockerfile = ROOT / "docker" / f"{name}.Dockerfile"
    suite, prepare = BASES[dict(instructions(dockerfile.read_text("utf-8")))["FROM"]]
    with copied(bootstrapped(suite, "--variant=minbase")) as folder:
        # A mirror may lag behind the dates that Debian's testing gives its lists.
        (folder / "etc/apt/apt.conf.d/mirror").write_text('Acquire::Check-Valid-Until "false";\n', "utf-8")
        (folder / "etc/hosts").touch()  # as in every image; an engine puts its own in its place
        made = Image(folder, *pip_of_this_machine())
        if prepare:
            made.run(prepare)
        made.build(dockerfile)
        yield made


@pytest.fixture(scope="module")
def images() -> Iterator[dict[str, Image]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(image(name)) for name in ("orthanc", "worker")}


class Service:
    """A service of a compose file, running.

    Parameters
    ----------
    image
        What it runs.
    service
        Its part of the compose file.
    folder
        An empty folder for its volume, its secrets and its log.
    passwords
        Its secrets by name.
    """

    def __init__(
        self, image: Image, service: Mapping[str, Any], folder: Path, passwords: Mapping[str, str]
    ) -> None:
        self.image = image
        self.log = folder / "log"
        self._folder = folder
        options = [
            *locked_down(service),
            *(self._volume(volume.split(":")[1]) for volume in service["volumes"]),
            *(self._file(f"/run/secrets/{name}", passwords[name]) for name in service["secrets"]),
            # One network for all, this machine's: services have its address, and a port that is free.
            self._file("/etc/hosts", "127.0.0.1 localhost orthanc\n"),
        ]
        self._environment = {name: expand(value, {}) for name, value in service["environment"].items()}
        # systemd-nspawn offers a socket for signs of life, as no engine does.
        command = ["env", "--unset=NOTIFY_SOCKET", *image.entrypoint, *image.command]
        self._line = image.nspawn(options, command, self._environment)

    def _file(self, there: str, content: str) -> str:
        path = self._folder / Path(there).name
        path.write_text(content, "utf-8")
        return f"--bind-ro={path}:{there}"

    def _volume(self, there: str) -> str:
        """Make a volume; like an engine's it has the owner of the folder in whose place it comes."""
        assert there in self.image.volumes
        volume = self._folder / "volume"
        subprocess.run(["cp", "-a", self.image.folder / there.lstrip("/"), volume], check=True)
        return f"--bind={volume}:{there}"

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._line, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        return self

    def __exit__(self, *_: object) -> None:
        end(self._process)

    def wait_until_healthy(self, seconds: float = 120) -> None:
        """Ask as the engine would, until the answer is good."""
        environment = {**self.image.environment, **self._environment}
        variables = [f"{name}={value}" for name, value in environment.items()]
        deadline = time.monotonic() + seconds
        while self._process.poll() is None and time.monotonic() < deadline:
            check = [*inside(self._process), "env", *variables, *self.image.healthcheck]
            if subprocess.run(check, capture_output=True, check=False).returncode == 0:
                return
            time.sleep(1)
        raise AssertionError(self.log.read_text("utf-8", "replace"))


def locked_down(service: Mapping[str, Any]) -> list[str]:
    """Return the options that give a service as little as the compose file does."""
    assert service["read_only"] is True
    assert service["security_opt"] == ["no-new-privileges:true"]
    return [
        "--read-only",
        "--resolv-conf=off",
        "--no-new-privileges=yes",
        *(f"--tmpfs={path}:mode=1777" for path in service["tmpfs"]),
        *(f"--drop-capability={name.lower()}" for name in service["cap_drop"]),
    ]


def test_both_services_of_compose_yml_come_up_healthy_and_analyse_a_slide(
    images: dict[str, Image], tmp_path: Path
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    services = yaml.safe_load((ROOT / "docker" / "compose.yml").read_text("utf-8"))["services"]
    services["orthanc"]["environment"]["ORTHANC_HTTP_PORT"] = str(port)
    services["worker"]["environment"]["ORTHANC_URL"] = f"http://orthanc:{port}"
    passwords = {f"{user}_password": secrets.token_urlsafe(16) for user in ("orthanc", "worker")}
    person = ("admin", passwords["orthanc_password"])
    folders = {name: tmp_path / name for name in services}
    for folder in folders.values():
        folder.mkdir()
    with Service(images["orthanc"], services["orthanc"], folders["orthanc"], passwords) as orthanc:
        orthanc.wait_until_healthy()
        stored = requests.post(f"{url}/instances", data=volume_file().read_bytes(), auth=person, timeout=60)
        with Service(images["worker"], services["worker"], folders["worker"], passwords) as worker:
            worker.wait_until_healthy()
            body = {"series": stored.json()["ParentSeries"]}
            answer = requests.post(f"{url}/pathology/analyze", json=body, auth=person, timeout=60)
            request = wait_until_ended(url, person, answer.json()["request_id"], seconds=300)
            log = worker.log.read_text("utf-8", "replace")
    assert request["status"] == "completed", log
