# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the documents list is what the code has."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from clam_core.errors import SlideError
from clam_core.tissue import PRESETS
from orthanc_plugin import settings as plugin_settings
from orthanc_plugin.routes.openapi import OPERATIONS
from tests.install.page import blocks

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_every_setting_of_the_plugin_stands_in_the_install_page() -> None:
    table = (ROOT / "docs/install.md").read_text("utf-8").split("### Every setting")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert documented == set(plugin_settings._KEYS)


def test_links_between_the_documents_lead_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))
        if not re.match(r"[a-z]+:", target) and not (page.parent / target).exists()
    ]
    assert broken == []


def anchors(page: Path) -> set[str]:
    """Return what GitHub and the built site make of a page's headings."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_to_a_place_in_a_page_lead_to_a_heading_of_it() -> None:
    links = [
        (page, page.parent / target if target else page, anchor)
        for page in PAGES
        for target, anchor in re.findall(r"\]\((?![a-z]+:)([^)#\s]*)#([^)\s]+)\)", page.read_text("utf-8"))
    ]
    assert len(links) > 10
    assert [
        f"{page.name}: #{anchor}" for page, target, anchor in links if anchor not in anchors(target)
    ] == []


def test_addresses_outside_are_whole_and_by_tls() -> None:
    addresses = {
        address
        for page in PAGES
        for address in re.findall(r"\]\(([a-z]+:[^)\s]*)\)", page.read_text("utf-8"))
    }
    assert addresses
    odd = [
        address for address in addresses if not re.fullmatch(r"https://[a-z0-9.-]+\.[a-z]+(/\S*)?", address)
    ]
    assert odd == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_a_page_are_commands(page: Path) -> None:
    for block in blocks(page.read_text("utf-8")):
        checked = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, f"{block}\n{checked.stderr}"


SPOKEN = [ROOT / name for name in ("worker", "clam_core", "orthanc_plugin", "demo", "docs", "README.md")]


def spoken_to_people() -> list[tuple[Path, str]]:
    """Return the pages, and the sources with their messages and examples."""
    files = [file for root in SPOKEN for file in ([root] if root.is_file() else root.rglob("*"))]
    kinds = {".py", ".md", ".js", ".html", ".example"}
    return [(file, file.read_text("utf-8")) for file in files if file.suffix in kinds]


def test_commands_are_called_what_they_are_installed_as() -> None:
    command = re.compile(r"(?<![\w-])worker (?:run|doctor|submit|status|ingest|cancel|retry)`")
    assert [
        f"{file.name}: {text}" for file, all_ in spoken_to_people() for text in command.findall(all_)
    ] == []


def test_nothing_is_installed_by_a_name_that_is_not_ours_in_the_package_index() -> None:
    assert [file.name for file, text in spoken_to_people() if "install 'orthanc-pathology" in text] == []


def test_the_examples_with_curl_call_routes_that_there_are_and_say_what_their_bodies_are() -> None:
    examples = [line for line in command_lines("rest.md") if line.startswith("curl")]
    assert len(examples) == 3
    for line in examples:
        method = "POST" if " -d " in line else "GET"
        path = re.sub(r"\?.*", "", line.split("/pathology")[1].rstrip("'"))
        routes = [re.sub(r"\{\w+\}", "[^/]+", route) for verb, route in OPERATIONS if verb == method]
        assert any(re.fullmatch(route, path) for route in routes), line
        assert method == "GET" or "Content-Type: application/json" in line, line


def command_lines(*pages: str) -> set[str]:
    """Return the lines of the shell blocks of some pages, without comments, which are translated."""
    found = [
        line
        for page in pages
        for block in blocks((ROOT / "docs" / page).read_text("utf-8"))
        for line in block.splitlines()
    ]
    return {re.sub(r"\s*#.*", "", line) for line in found}


def test_the_korean_page_tells_the_same_commands_as_the_english_ones() -> None:
    assert command_lines("ko/quick-start.md") - command_lines("quick-start.md", "install.md") == set()


def sources(*folders: str) -> str:
    """Return the code with the pieces of each broken string joined."""
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return "\n".join(re.sub(r'"\s*\n\s*f?"', "", path.read_text("utf-8")) for path in files)


@pytest.mark.parametrize("name", ["troubleshooting.md", "ko/troubleshooting.md"])
def test_what_the_troubleshooting_page_quotes_is_what_the_code_says(name: str) -> None:
    code = sources("worker", "clam_core", "orthanc_plugin")
    page = (ROOT / "docs" / name).read_text("utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| ")]
    quotes = [quote for row in rows for quote in re.findall(r"`([^`]+)`", row)]
    assert len(quotes) > 20
    strange = [quote for quote in quotes for part in quote.split("…") if part.strip() not in code]
    assert strange == []


def codes_of(path: str) -> set[str]:
    """Return what the exceptions of a module name themselves to machines."""
    return set(re.findall(r'^    code = "([a-z_]+)"', (ROOT / path).read_text("utf-8"), re.MULTILINE))


def test_every_code_that_a_slide_can_be_refused_with_stands_in_the_troubleshooting_page() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text("utf-8")
    # PreflightError itself is the root of those that are raised.
    codes = codes_of("worker/sources/preflight_errors.py") | codes_of("worker/sources/errors.py")
    codes |= {kind.code for kind in every_kind_of(SlideError)}
    assert len(codes) > 12
    assert {code for code in codes - {"preflight"} if f"`{code}`" not in page} == set()


def every_kind_of(root: type[SlideError]) -> set[type[SlideError]]:
    """Return an exception and all that are derived from it."""
    return {root, *(kind for child in root.__subclasses__() for kind in every_kind_of(child))}


def test_the_tissue_presets_that_the_troubleshooting_page_names_exist() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text("utf-8")
    assert set(re.findall(r"tissue_preset=(\w+)", page)) <= set(PRESETS)


def raised_errors() -> set[tuple[int, str]]:
    """Return status and code of every `ApiError` that the plugin makes."""
    trees = (ast.parse(path.read_text("utf-8")) for path in sorted((ROOT / "orthanc_plugin").rglob("*.py")))
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    made = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "ApiError"]
    return {(ast.literal_eval(call.args[0]), ast.literal_eval(call.args[1])) for call in made}


def documented_errors() -> set[tuple[int, str]]:
    """Return status and code of every error in the table of the REST page."""
    table = (ROOT / "docs/rest.md").read_text("utf-8").split("| status | codes |")[1].split("\n\n")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if re.match(r"\| \d", line)]
    return {
        (int(status), code)
        for statuses, codes in rows
        for status in statuses.split(",")
        for code in re.findall(r"`([a-z_]+)`", re.sub(r"\([^)]*\)", "", codes))
    }


def test_the_errors_of_the_rest_page_are_the_errors_of_the_plugin() -> None:
    raised, documented = raised_errors(), documented_errors()
    assert len(raised) > 25
    assert raised - documented == set()
    # One row lists what is 429 or 503, and not everything in it is both.
    assert {code for _, code in documented} == {code for _, code in raised}
    assert {error for error in documented - raised if error[0] != 429} <= {(503, "too_busy")}


def test_every_page_is_reached_from_the_index_of_the_site() -> None:
    folder = ROOT / "docs"
    trees = re.findall(r"```\{toctree\}\n(.*?)```", (folder / "index.md").read_text("utf-8"), re.DOTALL)
    listed = {line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")}
    pages = {str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.md")}
    assert pages - {"index"} | {"rest-reference"} == listed
