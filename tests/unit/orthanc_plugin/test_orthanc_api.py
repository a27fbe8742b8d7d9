# SPDX-License-Identifier: AGPL-3.0-or-later
"""What Orthanc answers, in errors of the plugin's own; with a stand-in for the module that Orthanc brings."""

from __future__ import annotations

import importlib
import sys
from typing import Any
from unittest.mock import MagicMock

import pytest

from orthanc_plugin.errors import StorageError

NAME = "orthanc_plugin.host.orthanc_api"


@pytest.fixture
def orthanc(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    module = MagicMock(OrthancException=type("OrthancException", (Exception,), {}))
    monkeypatch.setitem(sys.modules, "orthanc", module)
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    return module


@pytest.fixture
def api(orthanc: MagicMock, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = importlib.import_module(NAME)
    monkeypatch.delitem(sys.modules, NAME)
    monkeypatch.delattr("orthanc_plugin.host.orthanc_api")
    return module


def test_an_answer_that_is_nested_too_deep_is_one_that_orthanc_could_not_give(
    orthanc: MagicMock, api: Any
) -> None:
    orthanc.RestApiGet.return_value = b"[" * 100_000 + b"]" * 100_000
    with pytest.raises(StorageError, match="nested too deep"):
        api.get_json("/instances/x/simplified-tags")
