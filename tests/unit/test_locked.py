# SPDX-License-Identifier: Apache-2.0
"""The list of hashed packages is that of the versions that were tested together, and leaves none out."""

from __future__ import annotations

import re
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).resolve().parents[2] / "requirements"
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^ \\]+)", re.MULTILINE)


def pinned(name: str) -> dict[str, str]:
    text = (FOLDER / name).read_text("utf-8")
    return {canonicalize_name(package): version for package, version in PINNED.findall(text)}


def needed(package: str, seen: set[str]) -> set[str]:
    """Return what a package needs here, and what that needs; torch and what it brings are left out."""
    for text in requires(package) or []:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and name not in {*seen, "torch"}:
            seen.add(name)
            needed(name, seen)
    return seen


def test_each_package_has_its_hashes() -> None:
    text = (FOLDER / "locked.txt").read_text("utf-8")
    entries = re.split(r"^(?=[A-Za-z])", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(pinned("locked.txt")) > 20
    assert all("--hash=sha256:" in entry for entry in entries)


def test_the_versions_are_those_that_were_tested() -> None:
    tested = pinned("constraints.txt")
    locked = pinned("locked.txt")
    assert {name: version for name, version in locked.items() if tested.get(name, version) != version} == {}


def test_nothing_that_the_worker_needs_is_missing() -> None:
    assert needed("orthanc-pathology", set()) - set(pinned("locked.txt")) == set()
