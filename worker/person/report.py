# SPDX-License-Identifier: Apache-2.0
"""A request in words: what a person reads on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_DECIDE_OF_A_CANCEL = {"cancel_requested", "retried", "delivered"}
"""A cancel that was asked for is over with a retry, and with a result that was there before it."""
_TOP = 5
_BAR = 30


@dataclass(frozen=True)
class Addresses:
    """Where a person finds what belongs to a request.

    Attributes
    ----------
    orthanc_url, api_url
        Addresses of Orthanc and of the plugin's routes, without a trailing slash.
    """

    orthanc_url: str
    api_url: str

    def artifact(self, request: Mapping[str, Any], name: str) -> str:
        """Return the address of an artifact."""
        return f"{self.api_url}/requests/{request['request_id']}/artifacts/{name}"

    def page(self, request: Mapping[str, Any]) -> str:
        """Return the address of the plugin's result page."""
        return f"{self.api_url}/app/result.html?request={request['request_id']}"

    def explorer(self, request: Mapping[str, Any]) -> str:
        """Return the address of the series in Orthanc Explorer."""
        return f"{self.orthanc_url}/app/explorer.html#series?uuid={request['series']}"


def describe(request: Mapping[str, Any], addresses: Addresses, name: str = "") -> str:
    """Return the end of a request as text.

    Parameters
    ----------
    request
        The request with its result or error.
    addresses
        Where its artifacts and pages are.
    name
        Of the slide, as a person knows it; empty where nobody knows it.
    """
    result = request.get("result")
    if request.get("status") != "completed" or not isinstance(result, Mapping):
        return _without_result(request, name)
    parts = [
        _heading(request, result, name),
        _probabilities(result),
        _facts(result),
        _top_patches(result),
        _timings(result),
        _where(request, addresses),
    ]
    return "\n\n".join(part for part in parts if part)


def _which(request: Mapping[str, Any], name: str) -> str:
    return f"Request  {request.get('request_id')}\nSlide    {name or request.get('series')}"


def _without_result(request: Mapping[str, Any], name: str) -> str:
    error = request.get("error") or {}
    reason = f": {error['message']}" if error.get("message") else ""
    code = f" ({error['code']})" if error.get("code") else ""
    status = f"{_which(request, name)}\nStatus   {request.get('status')}{code}{reason}"
    return "\n".join(filter(None, (status, _ended(request))))


def _ended(request: Mapping[str, Any]) -> str:
    """Return who ended a request, when and why, from its history; nothing where that does not tell."""
    last = next((one for one in _latest_first(request) if one["event"] == request.get("status")), None)
    if last is None:
        return ""
    # A worker's "cancelled" only carries out what a person asked for; its detail of a failure is the error.
    who = asked_to_cancel(request) if last["event"] == "cancelled" else ""
    why = f": {last['detail']}" if last["event"] == "withdrawn" and last.get("detail") else ""
    return f"Ended    {last['at']} by {who or last['by']}{why}"


def asked_to_cancel(request: Mapping[str, Any]) -> str:
    """Return who asked for the cancel of a request while a worker was at it; empty where nobody is known."""
    decisions = (one for one in _latest_first(request) if one["event"] in _DECIDE_OF_A_CANCEL)
    latest = next(decisions, None)
    return str(latest["by"]) if latest is not None and latest["event"] == "cancel_requested" else ""


def _latest_first(request: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*reversed(request.get("history") or [])]


def _heading(request: Mapping[str, Any], result: Mapping[str, Any], name: str) -> str:
    model = result.get("model") or {}
    lines = [
        _which(request, name),
        f"Result   {_answer(result)}",
        f"Model    {model.get('name', '?')} {model.get('version', '')}".rstrip(),
    ]
    if model.get("intended_use"):
        lines.append(f"         {model['intended_use']}")
    quality = result.get("quality") or {}
    flags = [*quality.get("flags", []), *request.get("flags", [])]
    if quality.get("status", "ok") != "ok" or flags:
        note = f" ({', '.join(map(str, flags))})" if flags else ""
        reason = f": {quality['reason']}" if quality.get("reason") else ""
        lines.append(f"Quality  {quality.get('status', 'ok')}{note}{reason}")
    return "\n".join(lines)


def _answer(result: Mapping[str, Any]) -> str:
    """Return the predicted class; a model that abstains has none to stand for."""
    predicted = result.get("predicted_class")
    if (result.get("quality") or {}).get("status") == "abstained":
        return (
            f"none: the model abstains (it leans to {predicted})" if predicted else "none: the model abstains"
        )
    return str(predicted) if predicted else "no class"


def _probabilities(result: Mapping[str, Any]) -> str:
    probabilities: Mapping[str, float] = result.get("probabilities") or {}
    if not probabilities:
        return ""
    width = max(len(name) for name in probabilities)
    ordered = sorted(probabilities.items(), key=lambda item: -item[1])
    rows = [
        f"  {name:<{width}}  {value:6.1%}  {'#' * round(value * _BAR)}".rstrip() for name, value in ordered
    ]
    return "\n".join(["Class probabilities", *rows])


def _facts(result: Mapping[str, Any]) -> str:
    slide, patches = result.get("slide") or {}, result.get("patches") or {}
    lines = []
    if slide.get("width"):
        mpp = slide.get("mpp")
        spacing = f", {mpp[0]:.3g} x {mpp[1]:.3g} um a pixel" if mpp else ""
        lines.append(f"Size     {slide['width']} x {slide['height']} pixels{spacing}")
    if patches.get("count"):
        area = patches.get("tissue_mm2")
        tissue = f", {area:.1f} mm2 of tissue" if isinstance(area, int | float) else ""
        lines.append(
            f"Patches  {patches['count']} of {_side(patches, result.get('top_patches') or [])}{tissue}"
        )
    return "\n".join(lines)


def _side(patches: Mapping[str, Any], top: Sequence[Mapping[str, Any]]) -> str:
    """Return a patch's side as the encoder saw it and, where that is another number, on the slide."""
    size, mpp = patches.get("size_px", "?"), patches.get("level_mpp")
    scale = f" at {mpp:.3g} um a pixel" if mpp else ""
    on_slide = top[0]["width"] if top else size
    level_0 = f" ({on_slide} px of the slide's level 0)" if on_slide != size else ""
    return f"{size} px{scale}{level_0}"


def _top_patches(result: Mapping[str, Any]) -> str:
    top = list(result.get("top_patches") or [])[:_TOP]
    if not top:
        return ""
    rows = [
        f"  {number}.  x {patch['x']:>7}  y {patch['y']:>7}  {patch['width']} x {patch['height']}"
        f"  attention {patch['attention']:.4g}"
        for number, patch in enumerate(top, start=1)
    ]
    return "\n".join(["Most attended patches (pixels of level 0)", *rows])


def _timings(result: Mapping[str, Any]) -> str:
    timings: Mapping[str, float] = result.get("timings_s") or {}
    if not timings:
        return ""
    rows = [f"  {name:<9}{seconds:8.2f} s" for name, seconds in timings.items()]
    return "\n".join(["Time per stage", *rows])


def _where(request: Mapping[str, Any], addresses: Addresses) -> str:
    names = [str(item["name"]) for item in request.get("artifacts") or []]
    # By itself overlay.png is colour on nothing: the pages lay it over the slide.
    rows = {"Heatmap": addresses.artifact(request, "heatmap.png")} if "heatmap.png" in names else {}
    rows |= {"Page": addresses.page(request), "Explorer": addresses.explorer(request)}
    return "\n".join(f"{what:<9}{address}" for what, address in rows.items())
