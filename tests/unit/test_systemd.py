# SPDX-License-Identifier: Apache-2.0
"""The worker's systemd unit: systemd takes it, its sandbox is tight, and it names what is really there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from worker.cli import build_parser
from worker.processes.pulse import STALLED_S
from worker.settings_reading import load_settings, parse_env_file

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "docker" / "systemd" / "pathology-worker@.service"
MOST_EXPOSED = 1.5
"""On systemd's scale from 0 (nothing is possible) to 10; from 5 on it warns."""

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: apt-get install systemd"
)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that is there, so that systemd judges the rest of it."""
    program = tmp_path / "pathology-worker"
    program.write_text("#!/bin/sh\n", "utf-8")
    program.chmod(0o755)
    text = UNIT.read_text("utf-8").replace("/opt/pathology-worker/current/bin/pathology-worker", str(program))
    path = tmp_path / UNIT.name
    path.write_text(text, "utf-8")
    return path


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


@needs_systemd
def test_systemd_finds_nothing_wrong_with_the_unit(unit: Path) -> None:
    verified = analyze("verify", str(unit.with_name("pathology-worker@lab.service")))
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


@needs_systemd
def test_a_misspelt_setting_would_be_found(unit: Path) -> None:
    unit.write_text(unit.read_text("utf-8").replace("ProtectHome=", "ProtectHomes="), "utf-8")
    verified = analyze("verify", str(unit.with_name("pathology-worker@lab.service")))
    assert "ProtectHomes" in verified.stderr


@needs_systemd
def test_the_sandbox_leaves_little_open(unit: Path) -> None:
    judged = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED * 10:.0f}", str(unit))
    assert judged.returncode == 0, judged.stdout


@needs_systemd
def test_what_the_sandbox_leaves_open_is_what_the_worker_needs(unit: Path) -> None:
    judged = analyze("security", "--offline=true", "--json=short", str(unit))
    left_open = {item["json_field"] for item in json.loads(judged.stdout) if item["set"] is False}
    assert left_open <= {
        "IPAddressDeny",
        "MemoryDenyWriteExecute",
        "PrivateDevices",
        "PrivateNetwork",
        "ProcSubset",
        "RestrictAddressFamilies_AF_INET_INET6",
        "RestrictAddressFamilies_AF_UNIX",
        "RootDirectoryOrRootImage",
        "SystemCallFilter_resources",
        "DeviceAllow",
    }


def test_the_command_is_one_that_the_worker_knows() -> None:
    text = UNIT.read_text("utf-8")
    command = re.search(r"^ExecStart=\S+/pathology-worker (.*)$", text, re.MULTILINE)
    assert command is not None
    told = command[1].replace("$RUN_OPTIONS", "--devices all").replace("${CREDENTIALS_DIRECTORY}", "/run/c")
    arguments = build_parser().parse_args(told.split())
    assert arguments.devices == "all"
    assert arguments.env_file == Path("/run/c/settings")
    assert re.search(r"^LoadCredential=settings:/etc/pathology-worker/%i\.env$", text, re.MULTILINE)


def test_work_that_hangs_ends_its_process_in_an_hour_and_a_quarter() -> None:
    minutes = re.search(r"^WatchdogSec=(\d+)min$", UNIT.read_text("utf-8"), re.MULTILINE)
    assert minutes is not None
    assert STALLED_S + 60 * int(minutes[1]) == 75 * 60


def test_the_installer_puts_unit_and_settings_where_the_unit_looks(tmp_path: Path) -> None:
    """With a Python whose `venv` and `pip` only say that they were called: the real ones cost minutes."""
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\n[ "$2" = venv ] || exit 0\nmkdir -p "$3/bin"\n'
        'for tool in pip pathology-worker; do printf "#!/bin/sh\\necho $tool \\$*\\n" > "$3/bin/$tool"; '
        'chmod +x "$3/bin/$tool"; done\n',
        "utf-8",
    )
    python.chmod(0o755)
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHON": str(python),
        "PREFIX": str(tmp_path / "opt"),
        "ROOT": str(tmp_path / "root"),
        "NAME": "east",
    }
    script = [str(ROOT / "docker/systemd/install-worker.sh")]
    done = subprocess.run(
        script, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, umask=0o077
    )

    settings = tmp_path / "root/etc/pathology-worker/east.env"
    assert parse_env_file(settings)["MODEL_PATH"] == "demo"
    written = load_settings({}, settings)
    assert written.worker_id.endswith("-east")
    state = Path("/var/lib/pathology-worker/east")
    assert (written.spool_dir, written.feature_cache_dir) == (state / "spool", state / "features")
    assert settings.stat().st_mode & 0o777 == 0o600
    unit = (tmp_path / "root/etc/systemd/system" / UNIT.name).read_text("utf-8")
    assert f"ExecStart={tmp_path}/opt/current/bin/pathology-worker --env-file" in unit
    program = tmp_path / "opt/current/bin/pathology-worker"
    assert program.resolve().parent.stat().st_mode & 0o005 == 0o005
    assert "--require-hashes" in done.stdout

    settings.write_text("ORTHANC_USER=kept\n", "utf-8")
    subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, check=True)
    assert settings.read_text("utf-8") == "ORTHANC_USER=kept\n"
