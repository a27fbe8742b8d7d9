# SPDX-License-Identifier: AGPL-3.0-or-later
"""The page of all routes, written from the plugin's own OpenAPI document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orthanc_plugin.application import Application
from orthanc_plugin.clock import SystemClock
from orthanc_plugin.host.memory_gateway import MemoryGateway
from orthanc_plugin.http import Request
from orthanc_plugin.service.startup import load_open
from orthanc_plugin.settings import read_settings

HEAD = """# Routes, parameters and bodies

Written from the plugin's OpenAPI document (`GET /pathology/openapi.json`) when these pages are built.
What the routes mean and promise stands in [the HTTP interface](rest.md).

"""


def write(path: Path) -> None:
    """Write the page, where it has changed."""
    text = page(openapi())
    if not path.exists() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")


def openapi() -> dict[str, Any]:
    """Return the document of a plugin that runs in memory."""
    settings = read_settings({"AuthenticationEnabled": True, "Pathology": {"Workers": ["worker"]}})
    application = Application(settings, MemoryGateway(), SystemClock(), _NoAudit(), print)
    load_open(application.core)
    answer = application.handle(Request("GET", "/pathology/openapi.json", user="reader"))
    api: dict[str, Any] = json.loads(answer.body)
    return api


class _NoAudit:
    def write(self, *_: Any, **__: Any) -> None:
        """Keep nothing."""


def page(api: dict[str, Any]) -> str:
    """Return the page of a document."""
    routes = [
        _route(method.upper(), path, operation)
        for path, operations in sorted(api["paths"].items())
        for method, operation in operations.items()
    ]
    schemas = [_schema(name, schema) for name, schema in sorted(api["components"]["schemas"].items())]
    return HEAD + "\n".join(routes) + "\n## Bodies\n\n" + "\n".join(schemas)


def _route(method: str, path: str, operation: dict[str, Any]) -> str:
    lines = [f"## {method} {path}", "", f"{operation['summary']} {operation['description']}", ""]
    if operation["parameters"]:
        lines += ["| parameter | in | form |", "|---|---|---|"]
        lines += [
            f"| `{item['name']}` | {item['in']} | `{json.dumps(item['schema'])}` |".replace("\\", "\\\\")
            for item in operation["parameters"]
        ]
        lines.append("")
    for content_type, content in operation.get("requestBody", {}).get("content", {}).items():
        lines += [f"Body: `{content_type}`{_link(content)}", ""]
    for status, answer in operation["responses"].items():
        for content_type, content in answer.get("content", {}).items():
            lines += [f"Answer {status}: `{content_type}`{_link(content)}", ""]
    return "\n".join(lines)


def _link(content: dict[str, Any]) -> str:
    name = content.get("schema", {}).get("$ref", "").rsplit("/", 1)[-1]
    return f", [{name}](#{name.lower()})" if name else ""


def _schema(name: str, schema: dict[str, Any]) -> str:
    return f"### {name}\n\n```json\n{json.dumps(schema, indent=1)}\n```\n"
