# SPDX-License-Identifier: Apache-2.0
"""Images and compose files, judged without an engine (`tests/deploy` runs the steps)."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml

from tests.support.orthanc_server import expand, free_port
from worker.settings_reading import load_settings

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
COMPOSE = sorted(DOCKER.glob("compose*.yml"))
DEBIANS_NGINX = Path("/etc/nginx/nginx.conf")
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin")


def interpolated(path: Path) -> str:
    """Return a compose file with what an empty environment leaves of its variables."""
    return expand(re.sub(r":\?[^}]*", ":-http://x", path.read_text("utf-8")), {})


def services() -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{path.name}:{name}", service)
        for path in COMPOSE
        for name, service in yaml.safe_load(path.read_text("utf-8"))["services"].items()
    ]


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_a_compose_file_is_one_and_names_only_what_it_has(path: Path) -> None:
    compose = compose_spec.PyCompose.from_yaml(interpolated(path))
    compose.validate()
    assert compose.service_names()


def test_a_misspelt_key_would_be_found() -> None:
    text = interpolated(DOCKER / "compose.yml").replace("secrets: [worker_password]", "secrets: [nobody]")
    with pytest.raises(Exception, match="nobody"):
        compose_spec.PyCompose.from_yaml(text).validate()


@pytest.mark.parametrize("path", sorted(DOCKER.glob("*.Dockerfile")), ids=lambda path: path.name)
def test_hadolint_finds_nothing_in_a_dockerfile(path: Path) -> None:
    hadolint = str(Path(sys.executable).with_name("hadolint"))
    checked = subprocess.run(
        [hadolint, "--failure-threshold", "warning", str(path)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(("name", "service"), services(), ids=[name for name, _ in services()])
def test_every_container_is_locked_down_and_starts_again(name: str, service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", ["compose.yml", "compose.lab.yml"])
def test_what_a_worker_keeps_lies_on_a_volume(name: str) -> None:
    service = yaml.safe_load((DOCKER / name).read_text("utf-8"))["services"]["worker"]
    mounted = [Path(volume.split(":")[1]) for volume in service["volumes"] if not volume.endswith(":ro")]
    settings = load_settings({"ORTHANC_URL": "http://orthanc:8042"})
    for kept in (settings.spool_dir, settings.feature_cache_dir):
        in_container = Path("/home/worker") / kept.relative_to(Path.home())
        assert any(in_container.is_relative_to(volume) for volume in mounted)


@pytest.mark.parametrize(("name", "service"), services(), ids=[name for name, _ in services()])
def test_no_password_stands_in_a_compose_file(name: str, service: dict[str, Any]) -> None:
    passwords = {key: value for key, value in service.get("environment", {}).items() if "PASSWORD" in key}
    assert all(key.endswith("_FILE") for key in passwords)
    assert set(passwords.values()) <= {f"/run/secrets/{secret}" for secret in service.get("secrets", [])}


@pytest.mark.parametrize("path", sorted(DOCKER.glob("*.Dockerfile")), ids=lambda path: path.name)
def test_no_image_runs_as_root_and_each_tells_of_its_health(path: Path) -> None:
    text = path.read_text("utf-8")
    users = re.findall(r"^USER (\S+)$", text, re.MULTILINE)
    assert users
    assert users[-1] not in {"root", "0"}
    assert re.search(r"^HEALTHCHECK ", text, re.MULTILINE)


def test_only_the_proxy_can_be_reached_at_the_hospital() -> None:
    compose = yaml.safe_load((DOCKER / "compose.hospital.yml").read_text("utf-8"))
    assert [name for name, service in compose["services"].items() if "ports" in service] == ["nginx"]
    assert compose["services"]["orthanc"]["networks"] == ["inside"]
    assert compose["networks"]["inside"] == {"internal": True}


def test_what_the_dockerfiles_copy_is_sent_to_the_engine() -> None:
    sent = {
        line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")
    }
    for path in DOCKER.glob("*.Dockerfile"):
        for line in re.findall(r"^COPY (?!--)(.*)$", path.read_text("utf-8"), re.MULTILINE):
            for source in line.split()[:-1]:
                assert source in sent
                assert (ROOT / source).exists()


class TestSecretsToEnvironment:
    """The entry point that lets Orthanc read its passwords from files."""

    SCRIPT = DOCKER / "secrets-to-environment.sh"

    def run(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.SCRIPT), "sh", "-c", 'printf %s "$ORTHANC_PASSWORD"'],
            env={"PATH": os.defpath, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def test_puts_a_files_content_into_the_environment(self, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text("a b'c\"$d\n", "utf-8")
        assert self.run(ORTHANC_PASSWORD_FILE=str(secret)).stdout == "a b'c\"$d"

    def test_leaves_the_environment_alone_without_files(self) -> None:
        assert self.run(ORTHANC_PASSWORD="given").stdout == "given"

    @pytest.mark.parametrize(("content", "words"), [(None, "cannot be read"), ("\n", "is empty")])
    def test_starts_nothing_without_a_password(self, tmp_path: Path, content: str | None, words: str) -> None:
        secret = tmp_path / "secret"
        if content is not None:
            secret.write_text(content, "utf-8")
        done = self.run(ORTHANC_PASSWORD_FILE=str(secret))
        assert (done.returncode, done.stdout) == (2, "")
        assert f"ORTHANC_PASSWORD_FILE={secret}" in done.stderr
        assert words in done.stderr

    def test_can_be_executed(self) -> None:
        assert self.SCRIPT.stat().st_mode & stat.S_IXOTH


@pytest.mark.skipif(NGINX is None, reason="needs nginx: apt-get install nginx-light")
def test_the_containers_nginx_configuration_is_one(tmp_path: Path) -> None:
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=x",
            "-keyout",
            "tls_key",
            "-out",
            "tls_certificate",
        ],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    text = (DOCKER / "nginx" / "compose.conf").read_text("utf-8")
    text = text.replace("/etc/nginx/pathology", str(DOCKER / "nginx")).replace("/run/secrets", str(tmp_path))
    text = text.replace("server orthanc:8042", "server 127.0.0.1:8042").replace("8443", str(free_port()))
    done = nginx_of(f"pid {tmp_path}/pid; events {{ }} http {{ {text} }}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


@pytest.mark.skipif(
    NGINX is None or not DEBIANS_NGINX.exists(), reason="needs Debian's nginx: apt-get install nginx-light"
)
def test_what_stands_before_the_servers_fits_into_debians_nginx_conf(tmp_path: Path) -> None:
    ours = f"include {DOCKER}/nginx/http.conf;"
    text = DEBIANS_NGINX.read_text("utf-8").replace("include /etc/nginx/sites-enabled/*;", ours)
    assert ours in text
    done = nginx_of(text.replace("/run/nginx.pid", f"{tmp_path}/pid"), tmp_path)
    assert done.returncode == 0, done.stderr


def nginx_of(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Let nginx judge a configuration."""
    configuration = folder / "nginx.conf"
    configuration.write_text(text, "utf-8")
    return subprocess.run(
        [str(NGINX), "-t", "-c", str(configuration), "-e", "stderr"],
        capture_output=True,
        text=True,
        check=False,
    )
