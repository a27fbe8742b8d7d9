# SPDX-License-Identifier: Apache-2.0
"""Real slides, tiles and golden numbers that lie beside the project, where they are at hand."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2].parent / "shared"


def shared_path(relative: str) -> Path:
    """Return a file or folder beside the project, or skip the test that asks for it."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"needs ../shared/{relative}, which is not in this checkout")
    return path
