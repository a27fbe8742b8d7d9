# SPDX-License-Identifier: Apache-2.0
"""The table of what was tried, for the card of the demonstration model."""

from collections.abc import Mapping, Sequence
from typing import Any

HEAD = """| | tried | single fields | in other stains | blocks of four | gain in single fields |
|---|---|---|---|---|---|
"""


def trials_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows of `clam_core.training.trials` as Markdown, and what follows from them."""
    numbers = {row["title"]: number for number, row in enumerate(rows, start=1)}
    return HEAD + "\n".join(_row(row, numbers) for row in rows) + "\n\n" + _verdict(rows)


def _row(row: Mapping[str, Any], numbers: Mapping[str, int]) -> str:
    figures = [_area(row.get(key)) for key in ("single_fields", "single_fields_restained")]
    cells = [str(numbers[row["title"]]), row["title"], *figures, _area(row["blocks_of_four_fields"])]
    return f"| {' | '.join(cells)} | {_gain(row, numbers)} |"


def _area(figures: Mapping[str, Any] | None) -> str:
    return "" if figures is None else f"{figures['mean']:.2f} +- {figures['sd']:.2f}"


def _gain(row: Mapping[str, Any], numbers: Mapping[str, int]) -> str:
    if row["against"] == row["title"]:
        return ""
    return f"{row['gain']['mean']:+.2f} +- {row['gain']['margin']:.2f} over {numbers[row['against']]}"


def _verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    better = [row["title"] for row in rows if row["gain"]["beyond"] and row["gain"]["mean"] > 0]
    worse = [row["title"] for row in rows if row["gain"]["beyond"] and row["gain"]["mean"] < 0]
    return (
        f"Beyond the spread, that is with an interval that leaves out 0: better {_named(better)}; "
        f"worse {_named(worse)}."
    )


def _named(titles: Sequence[str]) -> str:
    return ", ".join(f'"{title}"' for title in titles) if titles else "none"
