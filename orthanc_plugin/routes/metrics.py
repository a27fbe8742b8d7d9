# SPDX-License-Identifier: AGPL-3.0-or-later
"""The state of the queue in Prometheus' text format: numbers, models and workers, nothing of a patient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orthanc_plugin import API_VERSION, __version__
from orthanc_plugin.fleet.counters import KNOWN
from orthanc_plugin.fleet.workers import Worker
from orthanc_plugin.service import listing
from orthanc_plugin.service.core import Core

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""https://prometheus.io/docs/instrumenting/exposition_formats/, text-based format."""

_MOST_MODELS = 500
_OTHER_MODELS = "(others)"
"""People may ask for a model of any name; a monitor must not be made to keep a series for each."""

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Sample:
    """One line: what is appended to the metric's name, labels, value."""

    value: float
    labels: Labels
    suffix: str = ""


@dataclass(frozen=True)
class Metric:
    """One metric with all its samples."""

    name: str
    kind: str
    help: str
    samples: tuple[Sample, ...]


def render(metrics: Iterable[Metric]) -> str:
    """Return metrics as text."""
    return "".join(_metric(metric) for metric in metrics)


def _metric(metric: Metric) -> str:
    head = f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind}\n"
    return head + "".join(
        f"{metric.name}{sample.suffix}{_labels(sample.labels)} {_number(sample.value)}\n"
        for sample in metric.samples
    )


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(round(value, 3))


def queue_metrics(core: Core) -> tuple[Metric, ...]:
    """Return the metrics of a queue."""
    return (
        Metric(
            "pathology_info",
            "gauge",
            "Version of the plugin and of its interface.",
            (Sample(1, {"version": __version__, "api": str(API_VERSION)}),),
        ),
        Metric(
            "pathology_ready",
            "gauge",
            "Whether the open requests, and all of them, have been read since the start.",
            (
                Sample(core.ready.open_known.is_set(), {"requests": "open"}),
                Sample(core.ready.all_known.is_set(), {"requests": "all"}),
            ),
        ),
        Metric(
            "pathology_unread_series",
            "gauge",
            "Slides whose requests Orthanc could not read.",
            (Sample(len(core.ready.unread), {}),),
        ),
        *_request_metrics(core),
        *_history_metrics(core),
        _waiters(core),
        *_webhook_metrics(core),
        *_worker_metrics(core),
    )


def _request_metrics(core: Core) -> tuple[Metric, ...]:
    depth = core.index.kinds()
    named = _most_frequent(depth)
    depths: Counter[tuple[str, str]] = Counter()
    for (model, status), number in depth.items():
        depths[_shown(model, named), status] += number
    ages: dict[tuple[str, str], float] = {}
    now = core.clock.now()
    for (model, status), created in core.index.oldest_open().items():
        key = (_shown(model, named), status)
        ages[key] = max(ages.get(key, 0.0), now - created)
    return (
        Metric(
            "pathology_requests",
            "gauge",
            "Requests by model and state.",
            tuple(Sample(number, _model_labels(key)) for key, number in sorted(depths.items())),
        ),
        Metric(
            "pathology_oldest_request_age_seconds",
            "gauge",
            "Time since the oldest open request of a model and state was submitted.",
            tuple(Sample(age, _model_labels(key)) for key, age in sorted(ages.items())),
        ),
    )


def _most_frequent(depth: Mapping[tuple[str, str], int]) -> set[str]:
    totals: Counter[str] = Counter()
    for (model, _), number in depth.items():
        totals[model] += number
    return {model for model, _ in totals.most_common(_MOST_MODELS)}


def _shown(model: str, named: set[str]) -> str:
    return model if model in named else _OTHER_MODELS


def _model_labels(key: tuple[str, str]) -> Labels:
    return {"model": key[0], "status": key[1]}


def _history_metrics(core: Core) -> tuple[Metric, ...]:
    stages = sorted(core.tallies.stages().items())
    seconds = [
        sample
        for stage, durations in stages
        for sample in (
            Sample(durations.total, {"stage": stage}, "_sum"),
            Sample(durations.count, {"stage": stage}, "_count"),
        )
    ]
    return (
        Metric(
            "pathology_transitions_total",
            "counter",
            "Lines written to the histories of requests since the start.",
            tuple(Sample(n, {"event": event}) for event, n in sorted(core.tallies.transitions().items())),
        ),
        Metric(
            "pathology_lease_expiries_total",
            "counter",
            "Leases that ran out since the start: after their first heartbeat, or without one.",
            tuple(Sample(n, {"outcome": outcome}) for outcome, n in core.tallies.lost_leases().items()),
        ),
        Metric(
            "pathology_stage_seconds",
            "summary",
            "Durations of the stages of delivered results, as their workers measured them.",
            tuple(seconds),
        ),
    )


def _waiters(core: Core) -> Metric:
    return Metric(
        "pathology_waiters",
        "gauge",
        "Long polls held open.",
        (
            Sample(core.claims.waiting, {"pool": "claims"}),
            Sample(core.pages.waiting, {"pool": "pages"}),
        ),
    )


def _webhook_metrics(core: Core) -> tuple[Metric, ...]:
    if core.webhook is None:
        return ()
    counts = core.webhook.counts()
    return (
        Metric(
            "pathology_webhook_messages_total",
            "counter",
            "Messages to the webhook since the start: delivered, failed, or dropped for want of room.",
            tuple(Sample(number, {"outcome": outcome}) for outcome, number in counts.items()),
        ),
        Metric(
            "pathology_webhook_waiting",
            "gauge",
            "Messages to the webhook that wait to be sent.",
            (Sample(core.webhook.waiting, {}),),
        ),
    )


def _worker_metrics(core: Core) -> tuple[Metric, ...]:
    busy = listing.requests_of_workers(core)
    known = sorted(core.workers.all(), key=lambda worker: worker.worker_id)
    drained = core.workers.drained()
    return (
        Metric(
            "pathology_worker_up",
            "gauge",
            "Whether a worker that was heard of since the start is alive.",
            tuple(Sample(core.workers.is_alive(item), {"worker": item.worker_id}) for item in known),
        ),
        Metric(
            "pathology_worker_last_seen_timestamp_seconds",
            "gauge",
            "When a worker was last heard of.",
            tuple(Sample(item.seen, {"worker": item.worker_id}) for item in known),
        ),
        Metric(
            "pathology_worker_busy",
            "gauge",
            "Whether a worker holds a request.",
            tuple(Sample(item.worker_id in busy, {"worker": item.worker_id}) for item in known),
        ),
        Metric(
            "pathology_worker_draining",
            "gauge",
            "Whether a person wants a worker to take nothing more.",
            tuple(
                Sample(name in drained, {"worker": name})
                for name in sorted(drained | {item.worker_id for item in known})
            ),
        ),
        *(_counter_metric(name, known) for name in KNOWN),
    )


def _counter_metric(name: str, known: Iterable[Worker]) -> Metric:
    """Return one of the workers' own counters; a worker that starts afresh begins again, as a counter may."""
    told = KNOWN[name]
    return Metric(
        f"pathology_worker_{told.metric}",
        told.kind,
        told.help,
        tuple(
            Sample(item.counters[name], {"worker": item.worker_id}) for item in known if name in item.counters
        ),
    )
