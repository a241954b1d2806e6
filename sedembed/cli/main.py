"""The command ``sedembed``."""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import sys
from collections.abc import Sequence

# Nothing heavier at the top: `sedembed --help` must not wait for torch.
from sedembed.cli.common import GOOD, INTERRUPTED, UNUSABLE, Command, complain
from sedembed.errors import SedembedError

__all__ = ["main"]

# Modules of `sedembed.cli`, in the order of the help text.
_GROUPS = ("vectors", "events", "explore", "probe", "evaluate", "analyze", "train")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.

    Returns
    -------
    int
        0 all good, 1 some inputs failed and are listed, 2 bad usage or unusable data, 130 interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding does not have is shown as \u2603, and does not end the run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING,
        format="%(levelname)s: %(message)s",
        stream=sys.stderr,
    )
    command: Command = options.command
    try:
        return command(options)
    except KeyboardInterrupt as interrupt:
        complain(str(interrupt) or "interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; closing now keeps Python from complaining at exit.
        sys.stderr.close()
        return GOOD
    except (SedembedError, OSError, ValueError) as error:
        complain(str(error))
        return UNUSABLE


def _parser() -> argparse.ArgumentParser:
    import sedembed

    parser = argparse.ArgumentParser(
        prog="sedembed", description="Turn recordings into vectors with sound-event networks."
    )
    parser.add_argument("--version", action="version", version=f"sedembed {sedembed.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(command=command)
        sub.add_argument("-v", "--verbose", action="store_true", help="say more on stderr")
        return sub

    for group in _GROUPS:
        importlib.import_module(f"sedembed.cli.{group}").register(add)
    return parser
