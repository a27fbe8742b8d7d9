# SPDX-License-Identifier: AGPL-3.0-or-later
"""The monitoring files that we ship: promtool takes them, and they ask for what the plugin really tells."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orthanc_plugin.fleet.counters import KNOWN
from tests.support.queue_client import Queue
from tests.support.sites import MONITOR, MemorySite

FOLDER = Path(__file__).resolve().parents[2] / "docker" / "monitoring"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool: apt-get install prometheus"
)


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)


def dashboard_expressions() -> Iterator[str]:
    dashboard = json.loads((FOLDER / "grafana-dashboard.json").read_text("utf-8"))
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\bpathology_[a-z_]+", text))


@pytest.fixture(scope="module")
def told() -> set[str]:
    """The name of every sample that the plugin tells of a queue with some history."""
    site = MemorySite()
    queue = Queue(site)
    queue.submitted()
    result = {"predicted_class": "a", "probabilities": {"a": 1.0}, "timings_s": {"encode": 1.5}}
    queue.claim("lab", counters=dict.fromkeys(KNOWN, 1.0)).complete(result=result)
    queue.submitted()
    text = site.call("GET", "/pathology/metrics", user=MONITOR).body.decode()
    return {re.split(r"[{ ]", line)[0] for line in text.splitlines() if not line.startswith("#")}


@needs_promtool
def test_promtool_takes_rules_and_configuration() -> None:
    for arguments in (
        ("check", "rules", "alerts.yml"),
        ("check", "config", "--syntax-only", "prometheus.yml"),
    ):
        checked = promtool(*arguments)
        assert checked.returncode == 0, checked.stdout + checked.stderr


@needs_promtool
def test_each_alert_comes_when_it_should_and_only_then() -> None:
    tested = promtool("test", "rules", "alerts_test.yml")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    alerts = set(re.findall(r"- alert: (\w+)", (FOLDER / "alerts.yml").read_text("utf-8")))
    scenarios = (FOLDER / "alerts_test.yml").read_text("utf-8")
    raised = set(re.findall(r"alertname: (\w+)\n +exp_alerts:\n", scenarios))
    kept_quiet = set(re.findall(r"alertname: (\w+), exp_alerts: \[\]", scenarios))
    assert alerts == raised
    assert alerts == kept_quiet


@needs_promtool
def test_the_dashboards_questions_are_promql(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(dashboard_expressions())
    ]
    path = tmp_path / "panels.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}), "utf-8")
    checked = promtool("check", "rules", str(path))
    assert (checked.returncode, len(rules) > 10) == (0, True), checked.stdout + checked.stderr


def test_alerts_and_dashboard_ask_for_metrics_that_there_are(told: set[str]) -> None:
    asked = names_in((FOLDER / "alerts.yml").read_text("utf-8")) | names_in(" ".join(dashboard_expressions()))
    assert asked <= told


def test_everything_that_a_worker_counts_is_on_the_dashboard_or_in_an_alert() -> None:
    asked = names_in((FOLDER / "alerts.yml").read_text("utf-8")) | names_in(" ".join(dashboard_expressions()))
    assert {f"pathology_worker_{known.metric}" for known in KNOWN.values()} <= asked
