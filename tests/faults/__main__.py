# SPDX-License-Identifier: AGPL-3.0-or-later
"""The long fault runs: ``python -m tests.faults``. A table, then one line of JSON; 1 where anything broke."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

from tests.faults.drive_queue import Tally, drive
from tests.faults.real_queue import run

KINDS = ("lost", "doubled", "superseded", "orphans", "other")


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument(
        "--steps", type=int, default=1_000_000, help="steps of the seeded driver (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="first seed of the driver (%(default)s)")
    parser.add_argument("--seconds", type=float, default=600, help="time of the real server (%(default)s)")
    arguments = parser.parse_args()
    started = time.monotonic()
    driven = drive(arguments.steps, seed=arguments.seed, processes=os.cpu_count() or 1)
    elapsed = time.monotonic() - started
    runs = [("seeded driver", driven, elapsed)]
    if arguments.seconds > 0:
        started = time.monotonic()
        runs.append(("real Orthanc", run(arguments.seconds, arguments.seed), time.monotonic() - started))
    sys.stdout.write(report(runs))
    return 1 if any(tally.broken for _, tally, _ in runs) else 0


def report(runs: list[tuple[str, Tally, float]]) -> str:
    """Return a table of what each run came to, and the sum as JSON in the last line."""
    total = Tally()
    lines = [f"{'run':<16}{'steps':>9}{'per s':>8}{'results':>9}{'crashes':>9}"]
    lines[0] += "".join(f"{kind:>11}" for kind in KINDS)
    for name, tally, seconds in runs:
        total.add(tally)
        line = f"{name:<16}{tally.steps:>9}{tally.steps / seconds:>8.0f}{tally.results:>9}{tally.crashes:>9}"
        lines.append(line + "".join(f"{tally.broken[kind]:>11}" for kind in KINDS))
    lines.append("faults: " + ", ".join(f"{name} {number}" for name, number in sorted(total.faults.items())))
    lines += [f"  {finding}" for finding in total.findings[:20]]
    lines.append(json.dumps({"steps": total.steps, **{kind: total.broken[kind] for kind in KINDS}}))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
