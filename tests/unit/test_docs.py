# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the documents list is what the code has."""

from __future__ import annotations

import re
from pathlib import Path

from orthanc_plugin import settings as plugin_settings

ROOT = Path(__file__).resolve().parents[2]


def test_every_setting_of_the_plugin_stands_in_the_install_page() -> None:
    table = (ROOT / "docs/install.md").read_text("utf-8").split("### Every setting")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert documented == set(plugin_settings._KEYS)


def test_links_between_the_documents_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))
        if not re.match(r"[a-z]+:", target) and not (page.parent / target).exists()
    ]
    assert broken == []
