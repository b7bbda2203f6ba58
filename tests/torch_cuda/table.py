"""Runs all scenarios with each allocator, on each device and in each order, and prints how many are right.

    python -m tests.cuda_emulator --torch /tmp/emulated python -m tests.torch_cuda.table

It takes a few minutes. What went wrong, if anything, is above the table, as pytest shows it.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cuda_emulator import MODES, Mode
from tests.torch_cuda.scenarios import SCENARIOS

_FILE = Path(__file__).with_name("test_scenarios.py")
_WITH = "test_with_"


class Outcomes:
    """A plugin of pytest's: which test had which outcome."""

    def __init__(self) -> None:
        self.found: dict[str, dict[Mode, str]] = {}
        """Name of the test without its mode -> mode -> outcome."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what the test itself came to, or what kept it from running."""
        name, _, mode = report.nodeid.rpartition("::")[2].rstrip("]").partition("[")
        for each in MODES:
            if mode == each and (report.when == "call" or not report.passed):
                self.found.setdefault(name, {})[each] = report.outcome

    def rows(self) -> Iterator[str]:
        """The lines of the table."""
        yield "| allocator, device | " + " | ".join(MODES) + " |"
        yield "|---" * (len(MODES) + 1) + "|"
        for name, outcomes in self.found.items():
            cells = [_cell(outcomes.get(mode, "not run")) for mode in MODES]
            yield f"| {name.removeprefix(_WITH).replace('_', ' ')} | " + " | ".join(cells) + " |"


def _cell(outcome: str) -> str:
    return f"{len(SCENARIOS)} of {len(SCENARIOS)}" if outcome == "passed" else outcome


def main() -> int:
    """Print the table; pytest's status."""
    os.environ["EVERY_ORDER"] = "1"
    outcomes = Outcomes()
    status = pytest.main(["-q", "-p", "no:cacheprovider", "-k", _WITH, str(_FILE)], plugins=[outcomes])
    print(f"{len(SCENARIOS)} scenarios:\n", *outcomes.rows(), sep="\n")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
