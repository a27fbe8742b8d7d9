# SPDX-License-Identifier: Apache-2.0
"""The steps of a Dockerfile, done in a folder: what an engine would do, as far as ours use it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.install.debian import NSPAWN, ROOT


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Yield name and rest of each instruction; continued lines are joined, comments left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        name, _, rest = line.strip().partition(" ")
        yield name, rest.strip()


@dataclass
class Image:
    """A root folder, and how it is to be run.

    Attributes
    ----------
    folder
        The root folder; it holds the base image's system already.
    build_environment
        Variables of RUN steps alone, such as where pip finds packages.
    shared
        What RUN steps see of this machine, read-only, by its place there.
    """

    folder: Path
    build_environment: Mapping[str, str] = field(default_factory=dict)
    shared: Mapping[str, Path] = field(default_factory=dict)
    user: str = "root"
    workdir: str = "/"
    environment: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    volumes: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)

    def build(self, dockerfile: Path) -> None:
        """Do the steps, in their order."""
        for name, rest in instructions(dockerfile.read_text("utf-8")):
            getattr(self, f"_{name.lower()}")(rest)

    def nspawn(
        self, options: Sequence[str], command: Sequence[str], environment: Mapping[str, str]
    ) -> list[str]:
        """Return the line that runs a command in the image as its user."""
        variables = {**self.environment, **environment}
        given = [f"--setenv={name}={value}" for name, value in variables.items()]
        there = [f"--directory={self.folder}", f"--user={self.user}", f"--chdir={self.workdir}", "--as-pid2"]
        return [*NSPAWN, "--console=pipe", *there, *options, *given, *command]

    def _from(self, _base: str) -> None:
        """Do nothing: the folder holds it already."""

    def _arg(self, rest: str) -> None:
        name, _, default = shlex.split(rest)[0].partition("=")
        self.arguments[name] = default

    def _env(self, rest: str) -> None:
        self.environment |= dict(pair.split("=", 1) for pair in shlex.split(rest))

    def _user(self, rest: str) -> None:
        self.user = rest

    def _workdir(self, rest: str) -> None:
        self.workdir = rest
        (self.folder / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)

    def _volume(self, rest: str) -> None:
        self.volumes += rest.split()

    def _expose(self, _port: str) -> None:
        """Do nothing: the network is this machine's."""

    def _entrypoint(self, rest: str) -> None:
        self.entrypoint = json.loads(rest)

    def _cmd(self, rest: str) -> None:
        self.command = json.loads(rest)

    def _healthcheck(self, rest: str) -> None:
        self.healthcheck = json.loads(rest.partition("CMD ")[2])

    def _copy(self, rest: str) -> None:
        *sources, target = rest.split()
        place = self.folder / (Path(self.workdir) / target).relative_to("/")
        for source in sources:
            path = ROOT / source
            if path.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(path, place, ignore=ignored, dirs_exist_ok=True)
            else:
                into = place if target.endswith("/") else place.parent
                into.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place / path.name if target.endswith("/") else place)

    def _run(self, rest: str) -> None:
        self.run(rest)

    def run(self, line: str) -> None:
        """Run a line as the user and in the folder of now; what fails is an error."""
        binds = [f"--bind-ro={path}:{inside}" for inside, path in self.shared.items()]
        environment = {**self.build_environment, **self.arguments}
        done = subprocess.run(
            self.nspawn(binds, ["sh", "-c", line], environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        assert done.returncode == 0, f"RUN {line}\n{done.stdout[-4000:]}"
