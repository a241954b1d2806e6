"""The command completion: a script that lets a shell complete commands, options and paths."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from sedembed.cli.common import GOOD, AddCommand
from sedembed.errors import MissingPackageError

__all__ = ["register"]

_PATHS = ("FOLDER", "FOLDER|FILE|GLOB", "QUERY", "CSV|folder")  # metavars of paths that are kept as text


def register(add: AddCommand) -> None:
    """Add the command of this module."""
    sub = add(
        "completion", _completion, "print a script that lets a shell complete sedembed (needs sedembed[completion])"
    )
    sub.add_argument("shell", metavar="SHELL", choices=["bash", "zsh", "tcsh"], help="bash, zsh or tcsh")


def _completion(options: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError as error:
        raise MissingPackageError('completion needs shtab: pip install "sedembed[completion]".') from error
    for action in _actions(options.parser):
        if action.type is Path or action.metavar in _PATHS:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(options.parser, options.shell))
    return GOOD


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every argument of a parser and of the commands below it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _actions(below)
        else:
            yield action
