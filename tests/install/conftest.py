# SPDX-License-Identifier: Apache-2.0
"""These tests want root, and fetch and install gigabytes: only `make test-install` runs them."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("INSTALL") == "1":
        return
    mark = pytest.mark.skip(reason="installs a whole Debian: make test-install")
    for item in items:
        if "tests/install/" in item.path.as_posix():
            item.add_marker(mark)
