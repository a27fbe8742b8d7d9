# SPDX-License-Identifier: Apache-2.0
"""The pages for administrators, followed word by word: hospital and lab on one empty Debian.

One way from the first test to the last. What a site brings is brought here: the repository, a server's name
and certificate, a slide, and a person who fills in the file of settings.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.install.debian import REPOSITORY, Debian, bring_repository, empty_debian
from tests.install.page import commands
from tests.support.certificates import make_certificates

NAME = "pathology.example"
"""As in `docker/nginx/site.conf`, which a site changes to its own."""

PORTS = (80, 443, 8042)
"""Taken by what is installed: the Debian has this machine's network."""

CERTIFICATES = "/etc/ssl/pathology"
"""Where they are brought to, as `site.conf` has it."""

EDITOR = f"""#!/bin/sh
. /etc/orthanc-pathology/orthanc.env
exec sed -i \\
    -e "s|^ORTHANC_URL=.*|ORTHANC_URL=https://{NAME}|" \\
    -e "s|^ORTHANC_USER=.*|ORTHANC_USER=worker|" \\
    -e "s|^ORTHANC_PASSWORD=.*|ORTHANC_PASSWORD=$ORTHANC_WORKER_PASSWORD|" \\
    -e "s|^#SUBMIT_USER=.*|SUBMIT_USER=admin|" \\
    -e "s|^#SUBMIT_PASSWORD=.*|SUBMIT_PASSWORD=$ORTHANC_PASSWORD|" \\
    -e "s|^DEVICE=.*|DEVICE=cpu|" \\
    -e "s|^#REQUESTS_CA_BUNDLE=.*|REQUESTS_CA_BUNDLE={CERTIFICATES}/ca.pem|" "$1"
"""
"""The person who fills in the settings, in the place of Debian's `editor`."""

WORKER = "pathology-worker --env-file /etc/pathology-worker/lab.env"


@pytest.fixture(scope="module")
def debian() -> Iterator[Debian]:
    """An empty Debian, with what a site brings."""
    for port in PORTS:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, (
                f"port {port} is taken: stop what listens there"
            )
    with empty_debian(bring) as debian:
        yield debian


def bring(folder: Path) -> None:
    """Bring what a site has: the repository, a name, a certificate, a slide, a person."""
    bring_repository(folder)
    with (folder / "etc" / "hosts").open("a") as hosts:
        hosts.write(f"127.0.0.1 {NAME}\n")
    certificates = folder / CERTIFICATES.lstrip("/")
    certificates.mkdir(parents=True)
    make_certificates(certificates, NAME)
    editor = folder / "usr" / "local" / "bin" / "editor"
    editor.write_text(EDITOR, "utf-8")
    editor.chmod(0o755)


def requests_of(debian: Debian) -> list[dict[str, object]]:
    """Return all requests, but for what changes with each start of Orthanc."""
    told = debian.paste(f"set +x; {WORKER} status --json")
    listed: list[dict[str, object]] = json.loads(told[told.index("{") :])["requests"]
    return [{name: value for name, value in request.items() if name != "version"} for request in listed]


def test_the_hospitals_side_ends_with_a_plugin_that_answers(debian: Debian) -> None:
    told = debian.paste("\n".join(commands("install.md", "A new Orthanc")))
    assert json.loads(told.splitlines()[-1])["api"] == 1


def test_orthanc_then_answers_by_tls_under_its_name(debian: Debian) -> None:
    told = debian.paste("\n".join(commands("install.md", "TLS in front of it")))
    assert "test is successful" in told
    told = debian.paste(
        f"curl -s -o /dev/null -w '%{{http_code}}\\n' --cacert {CERTIFICATES}/ca.pem https://{NAME}/system"
    )
    assert told.splitlines()[-1] == "401"


def test_the_labs_side_ends_with_a_service_that_runs(debian: Debian) -> None:
    told = debian.paste("\n".join(commands("install.md", "As a service, on Linux")))
    assert "FAILED" not in told
    assert "Active: active (running)" in told


def test_a_scanners_file_is_stored_and_analysed(debian: Debian) -> None:
    store, submit = commands("install.md", "3. Slides")
    stored = re.search(r"is stored .*: series (\S+),", debian.paste(store))
    assert stored is not None
    told = debian.paste(submit.replace("ORTHANC_ID", stored[1]))
    assert [request["status"] for request in requests_of(debian)] == ["completed"], told


def test_systemd_starts_a_worker_that_was_killed_again(debian: Debian) -> None:
    killed = "systemctl show --property=MainPID --value pathology-worker@lab"
    before = debian.paste(killed).split()[-1]
    debian.paste("systemctl kill --signal=KILL pathology-worker@lab")
    # 15 s after its end, and loaded when systemd is told so.
    debian.paste(f"until [ $({killed}) != {before} ]; do sleep 1; done", seconds=60)
    debian.paste("until systemctl is-active pathology-worker@lab; do sleep 1; done", seconds=120)


def test_the_services_process_has_no_right_of_roots_and_may_gain_none(debian: Debian) -> None:
    told = debian.paste("cat /proc/$(systemctl show --property=MainPID --value pathology-worker@lab)/status")
    status = dict(re.findall(r"^(\w+):\t(.*)$", told, re.MULTILINE))
    assert "0" not in status["Uid"].split()
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_a_backup_brings_slides_and_results_back(debian: Debian) -> None:
    save, restore = commands("operate.md", "Backup and restore")
    before = requests_of(debian)
    debian.paste(save)
    debian.paste("systemctl stop orthanc; rm -r /var/lib/orthanc/db-v6/*; systemctl start orthanc")
    debian.paste(restore)
    debian.paste("rm -r /var/lib/orthanc/db-v6.before")
    debian.paste(f"until {WORKER} status; do sleep 1; done", seconds=60)
    assert requests_of(debian) == before


def test_the_worker_can_be_installed_by_hand_and_runs(debian: Debian) -> None:
    install, run = commands("install.md", "By hand, also on Windows")
    told = debian.paste(install)
    assert "FAILED" not in told
    debian.paste("systemctl stop pathology-worker@lab")
    debian.paste(f"{WORKER} submit --find PatientID='*' --force")
    begun = f"systemd-run --unit=by-hand --working-directory={REPOSITORY}"
    debian.paste(f"{begun} bash -c '. .venv/bin/activate; exec {run.strip()}'")
    debian.paste(f"until {WORKER} status | grep -c completed | grep -x 2; do sleep 1; done", seconds=300)
    debian.paste("systemctl stop by-hand")


def test_after_uninstalling_debians_orthanc_runs_with_the_slide_and_nothing_of_ours(debian: Debian) -> None:
    debian.paste("\n".join(commands("operate.md", "Uninstall")))
    found = debian.paste(
        "set +x; find / -xdev -ipath '*pathology*' -not -path '/proc/*' -not -path '/root/.cache/pip/*' "
        f"-not -path '{REPOSITORY}*'"
    )
    left = {"/var/lib/orthanc/db-v6/pathology-audit.log"}  # the page says so
    assert {
        path for path in found.splitlines() if path.startswith("/") and not path.startswith(CERTIFICATES)
    } == left
    debian.paste("until curl -sS --fail http://127.0.0.1:8042/series; do sleep 1; done", seconds=60)
    assert debian.paste("set +x; curl -sS http://127.0.0.1:8042/series").count('"') == 2
