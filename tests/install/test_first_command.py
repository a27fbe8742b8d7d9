# SPDX-License-Identifier: Apache-2.0
"""README's first command in an empty Debian, in which only git and make are installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.install.debian import Debian, bring_repository, empty_debian

UNIT = "systemd-run --unit=demo --working-directory=$PWD"


@pytest.fixture(scope="module")
def debian() -> Iterator[Debian]:
    with empty_debian(bring_repository) as debian:
        yield debian


def test_make_demo_installs_all_it_needs_and_shows_a_result(debian: Debian) -> None:
    variables = " ".join(f"--setenv={name}={value}" for name, value in debian.environment.items())
    debian.paste(
        f"{UNIT} --setenv=HOME=/root {variables} bash -c 'make demo SLIDE=slide.svs > demo.log 2>&1'"
    )
    look = "systemctl is-active -q demo || { cat demo.log; exit 1; }; sleep 1"
    debian.paste(f"set +x; until grep -q 'keep running' demo.log; do {look}; done", seconds=1800)
    told = debian.paste("set +x; cat demo.log")
    assert "Most attended patches" in told


def test_it_leaves_debians_own_orthanc_switched_off(debian: Debian) -> None:
    assert "disabled" in debian.paste("set +x; systemctl is-enabled orthanc || true")


def test_ctrl_c_ends_it(debian: Debian) -> None:
    # What a terminal sends to all that runs in its foreground.
    debian.paste("pkill --signal INT --full -- '-m demo'")
    debian.paste("while systemctl is-active -q demo; do sleep 1; done", seconds=60)
    assert "Ended." in debian.paste("set +x; cat demo.log").splitlines()
    assert "Orthanc" not in debian.paste("set +x; ps -e -o comm")
