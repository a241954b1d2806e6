"""The command ``sedembed``."""

from __future__ import annotations

import argparse
import codecs
import importlib
import io
import logging
import os
import sys
from collections.abc import Mapping, Sequence

from sedembed._utils.text import did_you_mean

# Nothing heavier at the top: `sedembed --help` must not wait for torch.
from sedembed.cli.common import GOOD, INTERRUPTED, SOME_FAILED, UNUSABLE, Command, complain, explain
from sedembed.errors import AudioError, SedembedError

__all__ = ["main"]

# Modules of `sedembed.cli`, in the order of the help text.
_GROUPS = ("vectors", "events", "explore", "probe", "evaluate", "analyze", "finetune", "train", "check", "completion")


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
    if not _prepare_streams():
        return UNUSABLE
    parser = _parser()
    given = sys.argv[1:] if arguments is None else list(arguments)
    if any(not text or (text.startswith("--") and text.endswith("=")) for text in given):
        parser.error("expected a path or another value, got an empty text; write . for the current folder")
    _check_command(parser, [text for text in given if not text.startswith("-")])
    options = parser.parse_args(given)
    said = logging.StreamHandler(sys.stderr)
    # The commands say themselves which recordings failed.
    said.addFilter(lambda record: not record.name.endswith(".failures"))
    level = logging.INFO if options.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s", handlers=[said])
    command: Command = options.command
    try:
        code = command(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as interrupt:
        complain(str(interrupt) or "interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; closing now keeps Python from complaining at exit.
        sys.stderr.close()
        return GOOD
    except AudioError as error:  # the one recording that was named
        complain(str(error))
        return SOME_FAILED
    except OSError as error:
        complain(str(error) if isinstance(error, SedembedError) else explain(error))
        return UNUSABLE
    except (SedembedError, ValueError) as error:
        complain(str(error))
        return UNUSABLE
    except MemoryError:
        complain("the memory of this machine does not suffice; try a smaller --batch-size or fewer --workers")
        return UNUSABLE


def _prepare_streams() -> bool:
    r"""Let any text be printed; say whether there is somewhere to print to.

    What the encoding of the output does not have is written as \u2603, which JSON reads back.
    """
    codecs.register_error("sedembed-escape", _escape)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - for as long as the process
    if sys.stdout is None:
        complain("standard output is closed; send it to a file, or to /dev/null")
        return False
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="sedembed-escape")
    return True


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2)), error.end


def _check_command(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """End with a suggestion if the first word is no command of the parser, or the next one none of that command."""
    commands: Mapping[str, argparse.ArgumentParser] | None = parser.get_default("commands")
    if not commands or not words:
        return
    named = words[0]
    if named not in commands:
        meant = did_you_mean(named, commands)
        parser.error(f"no command is called {named!r}.{meant} {parser.prog} --help lists all.")
    _check_command(commands[named], words[1:])


def _parser() -> argparse.ArgumentParser:
    import sedembed

    parser = argparse.ArgumentParser(
        prog="sedembed", description="Turn recordings into vectors with sound-event networks."
    )
    parser.add_argument("--version", action="version", version=f"sedembed {sedembed.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(command=command, parser=parser, commands=None)
        sub.add_argument("-v", "--verbose", action="store_true", help="say more on stderr")
        return sub

    for group in _GROUPS:
        importlib.import_module(f"sedembed.cli.{group}").register(add)
    parser.set_defaults(commands=commands.choices)
    return parser
