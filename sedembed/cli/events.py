"""The commands detect and plot."""

from __future__ import annotations

import argparse
import contextlib
import sys
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sedembed.cli.common import GOOD, SOME_FAILED, AddCommand, add_model, load
from sedembed.cli.recordings import find_recordings
from sedembed.errors import InvalidArgumentError

if TYPE_CHECKING:
    from sedembed.detection.events import EventRules
    from sedembed.embedder import Embedder

__all__ = ["register"]


def register(add: AddCommand) -> None:
    """Add the commands of this module."""
    sub = add("detect", _detect, "find onset and offset of the sound events of a recording, or of each one in a folder")
    sub.add_argument("path", metavar="FILE|FOLDER", type=Path)
    sub.add_argument(
        "-o",
        "--out",
        type=Path,
        help="file to write; with --format audacity and a FOLDER, the folder of the "
        "label files (default: standard output)",
    )
    sub.add_argument(
        "--format",
        choices=["csv", "rttm", "audacity", "json"],
        help="default: by the suffix of OUT (.csv, .rttm, .txt, .json), else csv",
    )
    sub.add_argument("--json", dest="format", action="store_const", const="json", help="the same as --format json")
    _add_rules(sub)
    sub.add_argument("--min-duration", metavar="S", type=float, help="shortest event in seconds (default: 0)")
    sub.add_argument("--max-gap", metavar="S", type=float, help="longest gap bridged, in seconds (default: 0.2)")
    add_model(sub)

    sub = add("plot", _plot, "draw the spectrogram of a recording over a timeline of its strongest sound events")
    sub.add_argument("file", metavar="FILE", type=Path)
    sub.add_argument("-o", "--out", required=True, type=Path, help="picture to write: .png, .svg or .pdf")
    sub.add_argument("-k", type=int, default=12, help="most sound events to show (default: 12)")
    _add_rules(sub)
    add_model(sub)


def _add_rules(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threshold",
        metavar="X",
        type=_threshold,
        action="append",
        help="probability from which a sound counts as an event (default: 0.3); repeat as LABEL=X for a single sound",
    )
    parser.add_argument(
        "--labels", metavar="LABELS", action="append", help='only these sounds, separated by ";" (default: all)'
    )
    parser.add_argument(
        "--median", metavar="S", type=float, help="length of the median filter in seconds, 0 for none (default: 0.3)"
    )


def _threshold(text: str) -> tuple[str, float]:
    label, _, number = text.rpartition("=")
    try:
        return label, float(number)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number or LABEL=NUMBER, got {text!r}") from None


def _rules(options: argparse.Namespace, model: Embedder) -> EventRules:
    from sedembed.detection.events import DEFAULT_THRESHOLD, EventRules

    threshold = dict.fromkeys(model.labels, DEFAULT_THRESHOLD)
    for label, value in sorted(options.threshold or [], key=lambda pair: pair[0] != ""):
        threshold |= {label: value} if label else dict.fromkeys(model.labels, value)
    given: dict[str, Any] = {
        name: value
        for name in ("median", "min_duration", "max_gap")
        if (value := getattr(options, name, None)) is not None
    }
    if options.labels is not None:
        given["labels"] = [label.strip() for text in options.labels for label in text.split(";") if label.strip()]
    return EventRules.check(model.labels, model.frame_rate, threshold, **given)


def _detect(options: argparse.Namespace) -> int:
    from sedembed.batch.annotate import detect_recordings
    from sedembed.detection.formats import FORMATS, format_of, open_events, short_names

    form = options.format or format_of(options.out)
    recordings = find_recordings(options.path)
    each = form == "audacity" and options.path.is_dir()
    if each and (options.out is None or options.out.is_file()):
        raise InvalidArgumentError(
            "Audacity has a label file for each recording: give -o a folder for those of a folder."
        )
    names = short_names(recordings.paths, words=form == "rttm")
    model = load(options)
    found = detect_recordings(
        model.runner, recordings.folder, recordings.paths, _rules(options, model), options.out, progress=recordings.bar
    )
    good = recordings.report(found)
    if each:
        for path, duration, events, _ in good:
            with open_events(options.out / f"{names[path]}.txt") as stream:
                FORMATS[form](stream).add(path, names[path], duration, events)
        return recordings.exit_code
    first = next(good, None)
    if first is None:  # nothing to write: a file of an earlier run stays
        return SOME_FAILED
    output: contextlib.AbstractContextManager[IO[str]] = contextlib.nullcontext(sys.stdout)
    with output if options.out is None else open_events(options.out) as stream:
        writer = FORMATS[form](stream)
        for path, duration, events, _ in chain([first], good):
            writer.add(path, names[path], duration, events)
            stream.flush()
        writer.finish()
    return recordings.exit_code


def _plot(options: argparse.Namespace) -> int:
    from sedembed._analysis.timeline import check_picture, draw_timeline, read_timeline, save_picture

    if options.k < 1:
        raise InvalidArgumentError(f"-k needs a number of sound events of at least 1, got {options.k}")
    check_picture(options.out)
    model = load(options)
    timeline = read_timeline(model, options.file, _rules(options, model))
    save_picture(draw_timeline(timeline, options.k), options.out)
    return GOOD
