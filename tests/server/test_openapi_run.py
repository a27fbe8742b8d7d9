# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the OpenAPI document says, held against a running server by schemathesis, in each role."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.queue_client import Lease, Queue
from tests.support.sites import MONITOR, PERSON, WORKER, ServerSite, running

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif("EXAMPLES" not in os.environ, reason="takes minutes; run: make test-openapi"),
]

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
EXAMPLES = os.environ.get("EXAMPLES", "")


@pytest.fixture(scope="module")
def site() -> Iterator[ServerSite]:
    with running(slides=2) as site:
        yield site


@pytest.fixture(scope="module")
def completed(site: ServerSite) -> Lease:
    return Queue(site).completed()


@pytest.mark.parametrize("user", [PERSON, WORKER, MONITOR])
def test_the_server_answers_as_its_document_says(
    site: ServerSite, completed: Lease, user: str, tmp_path: Path
) -> None:
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        f"--config-file={CONFIGURATION}",
        "run",
        "openapi.json",
        f"--url={site.server.url}",
        f"--auth={user}:{site.passwords[user]}",
        f"--max-examples={EXAMPLES}",
        "--seed=1",
        "--continue-on-failure",
        "--no-shrink",
        "--warnings=off",
        "--suppress-health-check=all",
    ]
    document = site.call("GET", "/pathology/openapi.json", user=PERSON)
    (tmp_path / "openapi.json").write_bytes(document.body)
    slide = completed.claimed["instances"][0]["id"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "REQUEST_ID": completed.request_id, "INSTANCE_ID": slide, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "internal_error" not in site.server.log()
