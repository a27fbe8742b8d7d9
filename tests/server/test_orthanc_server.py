# SPDX-License-Identifier: Apache-2.0
"""The helper that starts a real Orthanc, and the configuration that the repository ships."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.orthanc_server import (
    CONFIGURATION,
    OrthancServer,
    expand,
    merge,
    parse_configuration,
    store_slide,
)
from tests.support.shared_data import shared_path

SCRIPT = """
import orthanc
orthanc.RegisterRestCallback("/hello", lambda output, uri, **request: output.AnswerBuffer("hi", "text/plain"))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancServer]:
    script = tmp_path_factory.mktemp("script") / "hello.py"
    script.write_text(SCRIPT, "utf-8")
    with OrthancServer(script=script, overrides={"Name": "Overridden"}) as running:
        yield running


@pytest.mark.server
def test_a_script_of_ones_own_runs_in_place_of_the_plugin(server: OrthancServer) -> None:
    assert server.get("/hello").text == "hi"


@pytest.mark.server
def test_overrides_are_laid_over_the_shipped_configuration(server: OrthancServer) -> None:
    assert server.get("/system").json()["Name"] == "Overridden"


@pytest.mark.server
def test_only_the_generated_passwords_open_the_server(server: OrthancServer) -> None:
    assert server.get("/system", auth=server.worker).status_code == 200
    assert server.get("/system", auth=("admin", "")).status_code == 401
    assert server.get("/system", auth=("admin", "guess")).status_code == 401


@pytest.mark.server
def test_a_stored_slide_survives_a_restart_and_a_kill(server: OrthancServer) -> None:
    series = store_slide(server, shared_path("slides/dicom-cmu-1-small-region"))
    server.restart()
    assert server.get(f"/series/{series}").ok
    server.kill()
    assert len(server.get(f"/series/{series}").json()["Instances"]) == 4


@pytest.mark.server
def test_dicomweb_of_the_shipped_configuration_answers(server: OrthancServer) -> None:
    assert server.get("/dicom-web/studies").status_code == 200


def test_the_shipped_configuration_holds_no_secret() -> None:
    configuration = parse_configuration(expand(CONFIGURATION.read_text("utf-8"), {}))
    assert set(configuration["RegisteredUsers"].values()) == {""}


def test_the_shipped_configuration_is_hardened() -> None:
    configuration = parse_configuration(expand(CONFIGURATION.read_text("utf-8"), {}))
    assert configuration["AuthenticationEnabled"] is True
    assert configuration["RemoteAccessAllowed"] is False
    assert configuration["ExecuteLuaEnabled"] is False
    assert configuration["RestApiWriteToFileSystemEnabled"] is False


def test_every_path_of_the_shipped_configuration_is_absolute() -> None:
    configuration = parse_configuration(expand(CONFIGURATION.read_text("utf-8"), {}))
    paths = [*configuration["Plugins"], configuration["PythonScript"], configuration["StorageDirectory"]]
    assert all(Path(path).is_absolute() for path in paths)


def test_merging_lays_objects_over_each_other_and_none_removes() -> None:
    assert merge({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 9}, "d": None}) == {"a": {"b": 9, "c": 2}}
