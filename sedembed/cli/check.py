"""The command check."""

from __future__ import annotations

import argparse
import dataclasses

from sedembed.cli.common import GOOD, SOME_FAILED, AddCommand, complain, print_json

__all__ = ["register"]


def register(add: AddCommand) -> None:
    """Add the command of this module."""
    sub = add("check", _check, "check this installation: versions, weights, and vectors of each engine")
    sub.add_argument("--json", action="store_true", help="print what was found as JSON")


def _check(options: argparse.Namespace) -> int:
    from sedembed.check import check_installation

    findings, wrong = [], 0
    for finding in check_installation():
        findings.append(finding)
        wrong += finding.state == "wrong"
        if not options.json:
            print(f"{finding.state:<7} {finding.subject:<13} {finding.text}", flush=True)
    if options.json:
        print_json({"ok": not wrong, "findings": [dataclasses.asdict(finding) for finding in findings]})
    elif wrong:
        complain(f"{wrong} of {len(findings)} lines are wrong")
    return SOME_FAILED if wrong else GOOD
