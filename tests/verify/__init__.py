"""Breaks sweeps on purpose and counts how often the answer stays right.

    python -m tests.verify CHECK [--trials N]

from the root of the repository; `--help` names the checks. Every check prints one JSON object with
`passed` and `total` and ends with 0 when they are equal, else with 1. A disturbed sweep passes when
its result, in the end, has the digest of an undisturbed one. docs/reliability.md holds what was
measured.
"""
