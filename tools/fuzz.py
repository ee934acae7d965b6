"""Hands thousands of damaged and hostile files to the readers, and keeps those that end in anything but a clear error.

Prints a JSON summary; exits with status 1 where a case failed. The cases are those of `tests/hostile`, always the same
for a seed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from hostile.kinds import KINDS
from hostile.pool import Outcome, run_cases


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="How many in all (default: 10,000).")
    parser.add_argument("--seed", type=int, default=0, help="Another seed gives other cases.")
    parser.add_argument("--kind", nargs="*", choices=sorted(KINDS), default=sorted(KINDS), help="Only these kinds.")
    parser.add_argument("--number", type=int, help="Only the case with this number, of each kind.")
    parser.add_argument("--jobs", type=int, default=1, help="Processes.")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="Folder for inputs that fail.")
    options = parser.parse_args(arguments)
    each = -(-options.cases // len(options.kind))
    numbers = range(each) if options.number is None else [options.number]
    cases = [(kind, options.seed, number) for number in numbers for kind in options.kind]
    done = 0

    def show(outcome: Outcome) -> None:
        nonlocal done
        done += 1
        if not outcome.ok or done % 250 == 0:
            last = outcome.message.strip().splitlines()[-1:] if not outcome.ok else []
            print(f"{done}/{len(cases)} {outcome.kind} {outcome.number} {outcome.outcome}", *last, file=sys.stderr)

    summary = run_cases(cases, options.keep, options.jobs, show)
    print(json.dumps(summary.to_dict(), indent=1))
    return 1 if summary.failures else 0


if __name__ == "__main__":
    sys.exit(main())
