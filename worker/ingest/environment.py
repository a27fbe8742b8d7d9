# SPDX-License-Identifier: Apache-2.0
"""The Python environment that the slide converter runs in.

wsidicomizer 0.26.1, the newest, wants wsidicom below 0.32; the worker reads slides with wsidicom 0.36. So the
converter has an environment of its own on every version of Python, also where a later pair might resolve
together: one tested set of versions, and a damaged slide that crashes a native decoder takes down a child
process instead of a worker. It is made once, by the first ingest, in a cache folder that may be deleted at
any time. ``CONVERTER_PYTHON`` names another interpreter that has the packages of ``converter.txt`` already.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from .errors import IngestError
from .progress import Progress, Report, Stage

REQUIREMENTS = Path(__file__).with_name("converter.txt")
DEFAULT_FOLDER = Path.home() / ".cache" / "orthanc-pathology" / "converter"
_INSTALL_SECONDS = 1800
_PROBE_SECONDS = 120


def converter_python(
    configured: Path | None,
    report: Report,
    *,
    folder: Path = DEFAULT_FOLDER,
    requirements: Path = REQUIREMENTS,
    environ: Mapping[str, str] | None = None,
) -> Path:
    """Return an interpreter that can convert slides, making its environment where there is none yet.

    Parameters
    ----------
    configured
        An interpreter chosen by the user, or None.
    report
        Is told that something is being installed.
    folder
        Where environments are kept.
    requirements
        The packages.
    environ
        The environment that pip runs in; by default this process' own.

    Raises
    ------
    IngestError
        ``converter_unavailable``: the chosen interpreter lacks the packages, or they cannot be installed.
    """
    if configured is not None:
        _probe(configured)
        return configured
    environment = folder / _name(requirements)
    python = _python_of(environment)
    if not python.exists():
        report(Progress(Stage.PREPARE, note=f"Installing the slide converter once, into {environment}."))
        _create(environment, requirements, environ)
    return python


def _name(requirements: Path) -> str:
    """Name an environment by what is in it, so that other versions get another one."""
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    return f"py{sys.version_info.major}.{sys.version_info.minor}-{digest}"


def _python_of(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _create(environment: Path, requirements: Path, environ: Mapping[str, str] | None) -> None:
    """Make the environment beside its place and move it there whole, so that nobody sees half of it."""
    try:
        environment.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f"{environment.name}-", dir=environment.parent))
    except OSError as error:
        raise _unavailable(f"{environment.parent} cannot be written ({error.strerror})") from error
    try:
        _run([sys.executable, "-m", "venv", str(building)])
        pip = [str(_python_of(building)), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
        _run([*pip, "--quiet", "--requirement", str(requirements)], environ)
        _move(building, environment)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _move(building: Path, environment: Path) -> None:
    try:
        building.rename(environment)
    except OSError:
        # Another ingest was faster; what it installed is the same.
        if not _python_of(environment).exists():
            raise


def _run(command: list[str], environ: Mapping[str, str] | None = None) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and arguments, no shell
            command, env=environ, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _unavailable(str(error)) from error
    if done.returncode != 0:
        raise _unavailable(_last_line(done.stderr or done.stdout))


def _probe(python: Path) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - the interpreter that the user names, no shell
            [str(python), "-c", "import wsidicomizer"],
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _unavailable(f"CONVERTER_PYTHON={python} cannot be run: {error}") from error
    if done.returncode != 0:
        raise _unavailable(f"CONVERTER_PYTHON={python} lacks wsidicomizer: {_last_line(done.stderr)}")


def _unavailable(reason: str) -> IngestError:
    return IngestError(
        "converter_unavailable",
        f"The slide converter cannot be installed: {reason}. It needs Python's venv module (Debian: "
        "python3-venv) and a package index; without a network, install worker/ingest/converter.txt into an "
        "environment elsewhere, copy it here and set CONVERTER_PYTHON to its python.",
    )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["no reason given"])[-1].rstrip(".")
