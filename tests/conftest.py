# SPDX-License-Identifier: Apache-2.0
"""Fixtures that several parts of the tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.orthanc_server import OrthancServer, store_slide
from tests.support.shared_data import shared_path


@pytest.fixture(scope="session")
def orthanc() -> Iterator[OrthancServer]:
    """Return a real Orthanc with the plugin, shared by all tests: mark them `server`."""
    with OrthancServer() as server:
        yield server


@pytest.fixture(scope="session")
def slide_series(orthanc: OrthancServer) -> str:
    """Return the Orthanc id of the real slide's series in the shared server."""
    return store_slide(orthanc, shared_path("slides/dicom-cmu-1-small-region"))
