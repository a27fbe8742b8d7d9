# SPDX-License-Identifier: Apache-2.0
"""The licences that decide what a model may be used for."""

import re
import sys
from collections.abc import Callable, Mapping

from clam_core.encoders import ENCODERS
from clam_core.errors import ParameterError
from clam_core.package_json import LICENCES, Use

_FORBIDS_COMMERCE = re.compile(r"\bNC\b|non-?\s?commercial|research[- ](use )?only|academic", re.IGNORECASE)

_UNKNOWN = re.compile(r"^\W*(not stated|unstated|unknown|not known|none|\?+|n/?a)\W*$", re.IGNORECASE)
NOT_STATED = "not stated"
"""Licence of which nobody has said anything: it permits nothing."""


def use_of(licences: Mapping[str, str], encoder: str, wanted: Use | None = None) -> Use:
    """Decide what a model may be used for.

    Parameters
    ----------
    licences
        Of checkpoint, encoder and data, in words or as SPDX names.
    encoder
        Name of the encoder, whose entry in the registry counts too.
    wanted
        What the user says; it may forbid more than the licences do, never less.

    Returns
    -------
    str
        ``non-commercial`` where any licence says so, else ``unknown`` where any is not stated.

    Raises
    ------
    ParameterError
        If the user wants commercial use and a licence forbids it or is not stated.
    """
    forbidding = [kind for kind in LICENCES if _FORBIDS_COMMERCE.search(licences[kind])]
    if not ENCODERS[encoder].commercial_use and "encoder" not in forbidding:
        forbidding.append("encoder")
    if wanted == "commercial" and forbidding:
        raise ParameterError(
            f"The licence of {' and '.join(forbidding)} forbids commercial use: choose non-commercial."
        )
    unstated = [kind for kind in LICENCES if _UNKNOWN.match(licences[kind])]
    if wanted == "commercial" and unstated:
        raise ParameterError(
            f"The licence of {' and '.join(unstated)} is not known, so that nobody can say commercial use is "
            "permitted: state it, or leave --use out."
        )
    if forbidding and wanted in {None, "unknown"}:
        return "non-commercial"
    return wanted or ("unknown" if unstated else "commercial")


def asked_licences(
    given: Mapping[str, str | None], ask: Callable[[str], str] | None = None
) -> dict[str, str]:
    """Complete the licences of a model, asking for those that were not given.

    Parameters
    ----------
    given
        By kind; None where the user did not say.
    ask
        Puts a question to the user; None asks on the terminal where there is one.

    Raises
    ------
    ParameterError
        If one is missing and nobody can be asked, or the answer is empty.
    """
    question = ask or (input if sys.stdin.isatty() else None)
    return {kind: _one(kind, given.get(kind), question) for kind in LICENCES}


def _one(kind: str, given: str | None, ask: Callable[[str], str] | None) -> str:
    text = given if given is not None or ask is None else ask(f"Licence of the {kind}: ")
    if not text or not text.strip():
        raise ParameterError(
            f"Say under which licence the {kind} may be used (--licence-{kind}): every result names it."
        )
    return text.strip()
