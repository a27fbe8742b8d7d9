# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the documents list is what the code has."""

from __future__ import annotations

import re
from pathlib import Path

from clam_core.tissue import PRESETS
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


def sources(*folders: str) -> str:
    """Return the code with the pieces of each broken string joined."""
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return "\n".join(re.sub(r'"\s*\n\s*f?"', "", path.read_text("utf-8")) for path in files)


def test_what_the_troubleshooting_page_quotes_is_what_the_code_says() -> None:
    code = sources("worker", "clam_core", "orthanc_plugin")
    page = (ROOT / "docs/troubleshooting.md").read_text("utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| ")]
    quotes = [quote for row in rows for quote in re.findall(r"`([^`]+)`", row)]
    assert len(quotes) > 30
    strange = [quote for quote in quotes for part in quote.split("…") if part.strip() not in code]
    assert strange == []


def test_the_tissue_presets_that_the_troubleshooting_page_names_exist() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text("utf-8")
    assert set(re.findall(r"tissue_preset=(\w+)", page)) <= set(PRESETS)


def test_every_error_code_of_the_plugin_stands_in_the_rest_page() -> None:
    codes = set(re.findall(r'ApiError\(\s*\d{3},\s*"(\w+)"', sources("orthanc_plugin")))
    assert len(codes) > 15
    page = (ROOT / "docs/rest.md").read_text("utf-8")
    assert {code for code in codes if f"`{code}`" not in page} == set()
