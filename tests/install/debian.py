# SPDX-License-Identifier: Apache-2.0
"""An empty Debian in a folder, booted: systemd, users and journal of its own, this machine's network."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from worker.demo_slide import demo_slide

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "debian"
MIRROR = os.environ.get("MIRROR", "http://deb.debian.org/debian")
SUITE = os.environ.get("SUITE", "bookworm")
"""The Debian that the pages are followed on."""
NSPAWN = ("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--resolv-conf=copy-host")
REPOSITORY = "/root/orthanc-pathology"
"""Where ours lies in a Debian."""
START_SECONDS = 60.0
SHOWN_LINES = 60


def bootstrapped(suite: str, *options: str) -> Path:
    """Return the folder of a Debian that nobody has used; it is fetched once."""
    folder = CACHE / "-".join((suite, *(option.strip("-").replace("=", "-") for option in options)))
    if folder.exists():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix="partial-", dir=CACHE))
    scripts = Path("/usr/share/debootstrap/scripts")
    # A suite that this debootstrap does not know yet is built as sid is.
    script = scripts / (suite if (scripts / suite).exists() else "sid")
    subprocess.run(["debootstrap", *options, suite, partial, MIRROR, script], check=True)
    partial.chmod(0o755)
    partial.rename(folder)
    return folder


@contextmanager
def copied(base: Path) -> Iterator[Path]:
    """Copy a Debian for one use."""
    folder = Path(tempfile.mkdtemp(prefix="copy-", dir=CACHE))
    try:
        subprocess.run(["cp", "-a", f"{base}/.", folder], check=True)
        yield folder
    finally:
        shutil.rmtree(folder)


def bring_repository(folder: Path) -> None:
    """Put this repository into a Debian, as somebody who unpacks its archive."""
    repository = folder / REPOSITORY.lstrip("/")
    repository.mkdir()
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    packed = ["tar", "--create", "--null", "--files-from=-"]
    content = subprocess.run(packed, cwd=ROOT, input=listed.stdout, check=True, capture_output=True)
    subprocess.run(["tar", "--extract"], cwd=repository, input=content.stdout, check=True)
    shutil.copy(demo_slide(ROOT / ".demo").path, repository / "slide.svs")


@dataclass
class Debian:
    """A Debian that runs until the end of the ``with`` block.

    Attributes
    ----------
    folder
        Its root.
    environment
        Variables of the shell that lines are pasted into.
    shared
        Files and folders of this machine that it sees read-only, by their place in it.
    """

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    shared: Mapping[str, Path] = field(default_factory=dict)

    def __enter__(self) -> Self:
        binds = [f"--bind-ro={path}:{inside}" for inside, path in self.shared.items()]
        with (self.folder / "console.log").open("wb") as console:
            self._process = subprocess.Popen(
                [*NSPAWN, "--boot", f"--directory={self.folder}", "--console=pipe", *binds],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_until_up()
        except BaseException:
            end(self._process)
            raise
        return self

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self._try("systemctl is-system-running --wait").stdout.strip() not in {"running", "degraded"}:
            assert self._process.poll() is None, (self.folder / "console.log").read_text("utf-8", "replace")
            assert time.monotonic() < deadline, "systemd did not come up"
            time.sleep(0.5)

    def __exit__(self, *_: object) -> None:
        end(self._process)

    def paste(self, lines: str, *, seconds: float = 1200) -> str:
        """Run lines in one shell of root's, as somebody who pastes them; the first that fails is an error.

        Returns
        -------
        str
            What the terminal would show.
        """
        done = self._try(f"set -ex; cd {REPOSITORY}\n{lines}", seconds)
        shown = "\n".join(done.stdout.splitlines()[-SHOWN_LINES:])
        assert done.returncode == 0, f"exit {done.returncode} of\n{lines}\n{shown}"
        return done.stdout

    def _try(self, lines: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(lines),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )

    def _command(self, lines: str) -> Sequence[str]:
        variables = {
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            **self.environment,
        }
        given = [f"{name}={value}" for name, value in variables.items()]
        return [*inside(self._process), "env", "-i", *given, "bash", "-c", lines]


@contextmanager
def empty_debian(bring: Callable[[Path], None]) -> Iterator[Debian]:
    """Boot a Debian in which only git and make are installed, with what is brought into its folder."""
    environment, shared = pip_of_this_machine()
    with copied(bootstrapped(SUITE, "--include=git,make")) as folder:
        bring(folder)
        with Debian(folder, environment, shared) as debian:
            yield debian


def end(nspawn: subprocess.Popen[bytes]) -> None:
    """Shut down what a running systemd-nspawn holds."""
    nspawn.send_signal(signal.SIGTERM)
    try:
        nspawn.wait(60)
    except subprocess.TimeoutExpired:
        nspawn.kill()
        nspawn.wait()


def inside(nspawn: subprocess.Popen[bytes]) -> list[str]:
    """Return the beginning of a command that is to run in what a running systemd-nspawn holds."""
    children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children")
    deadline = time.monotonic() + START_SECONDS
    while not (found := children.read_text("ascii").split()):
        assert nspawn.poll() is None, f"systemd-nspawn ended with {nspawn.returncode}"
        assert time.monotonic() < deadline, "systemd-nspawn started nothing"
        time.sleep(0.1)
    return ["nsenter", "--target", found[0], "--all", "--root", "--wd"]


def pip_of_this_machine() -> tuple[dict[str, str], dict[str, Path]]:
    """Return what this machine's environment tells pip, and the files it names by their place in a Debian.

    Where packages come through a mirror, or past a proxy with a certificate of its own, they must there too.
    """
    environment, shared = {}, {}
    for name, value in sorted(os.environ.items()):
        if not name.startswith("PIP_"):
            continue
        environment[name] = value
        if value.startswith("/") and Path(value).exists():
            environment[name] = f"/mnt/{name.lower()}"
            shared[environment[name]] = Path(value)
    return environment, shared
