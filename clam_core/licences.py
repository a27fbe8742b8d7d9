# SPDX-License-Identifier: Apache-2.0
"""The licences that decide what a model may be used for."""

import re
import sys
from collections.abc import Callable, Mapping

from clam_core.encoders import ENCODERS
from clam_core.errors import ParameterError
from clam_core.package_json import LICENCES, Use

_PERMIT_COMMERCE = (
    *("0BSD", "AGPL-3.0-only", "AGPL-3.0-or-later", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0"),
    *("CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC0", "CC0-1.0", "CDLA-Permissive-2.0"),
    *("EPL-2.0", "GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later", "ISC"),
    *("LGPL-2.1-only", "LGPL-2.1-or-later", "LGPL-3.0-only", "LGPL-3.0-or-later", "MIT", "MPL-2.0"),
    *("ODC-By-1.0", "ODbL-1.0", "PDDL-1.0", "public domain", "Unlicense", "Zlib"),
)
"""By their SPDX names: only these are taken for a permission. Words may say anything."""

_FORBIDS_COMMERCE = re.compile(
    r"(?<![a-z])nc(?![a-z])"
    r"|\b(non?|not|never|without|forbid\w*|prohibit\w*|exclud\w*)\b.*commerc|noncommerc"
    r"|commerc.*\b(not|forbidden|prohibited|excluded)\b"
    r"|\bnon?[- ]?profit"
    r"|research.*\bonly\b|\bonly\b.*research|research purpose|academic|\bevaluation\b",
    re.IGNORECASE,
)

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
        ``non-commercial`` where any licence says so, ``commercial`` where all are known to permit it, else
        ``unknown``.

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
    return wanted or (
        "commercial" if all(_permits(text, encoder) for text in licences.values()) else "unknown"
    )


def _permits(licence: str, encoder: str) -> bool:
    """Whether a licence is known to permit commercial use: by its name alone, or as the encoder's own."""
    return licence == ENCODERS[encoder].licence or _bare(licence) in map(_bare, _PERMIT_COMMERCE)


def _bare(licence: str) -> str:
    """Return a licence's name without what people write differently: ``Apache License, Version 2.0``."""
    words = re.sub(r"\b(the|licen[cs]e|version|v(?=\d))", "", licence.lower())
    return re.sub(r"[^a-z0-9.]", "", words)


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
