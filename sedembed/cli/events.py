"""The commands detect, labels and plot."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sedembed.cli.common import GOOD, SOME_FAILED, AddCommand, add_model, complain, load, print_json
from sedembed.cli.recordings import find_recordings
from sedembed.errors import InvalidArgumentError

if TYPE_CHECKING:
    from datetime import datetime

    from sedembed.batch.annotate import Annotation
    from sedembed.detection.events import EventRules
    from sedembed.embedder import Embedder

__all__ = ["register"]


def register(add: AddCommand) -> None:
    """Add the commands of this module."""
    sub = add("detect", _detect, "find onset and offset of the sound events of recordings")
    sub.add_argument("paths", metavar="FILE|FOLDER|GLOB", type=Path, nargs="+")
    sub.add_argument(
        "-o",
        "--out",
        type=Path,
        help="file to write; with --format audacity or raven and several recordings, the folder of their files "
        "(default: standard output)",
    )
    sub.add_argument(
        "--format",
        choices=["csv", "rttm", "audacity", "raven", "json"],
        help="default: by the suffix of OUT (.csv, .rttm, .txt, .json), else csv",
    )
    sub.add_argument("--json", dest="format", action="store_const", const="json", help="the same as --format json")
    _add_rules(sub)
    sub.add_argument("--min-duration", metavar="S", type=float, help="shortest event in seconds (default: 0)")
    sub.add_argument("--max-gap", metavar="S", type=float, help="longest gap bridged, in seconds (default: 0.2)")
    sub.add_argument(
        "--start",
        metavar="TIME|names",
        help="when the recording began, such as 2026-05-01T04:30:00, or names: take it from the file names, such as "
        "SITE_20260501_043000.wav; csv, json and raven then tell the time of each event",
    )
    sub.add_argument("--extract", metavar="DIR", type=Path, help="also write each event as a WAV into this folder")
    sub.add_argument(
        "--margin", metavar="S", type=float, default=0.0, help="with --extract: seconds around each event (default: 0)"
    )
    add_model(sub)

    sub = add("labels", _labels, "list the sound events that detect looks for, as the tree of AudioSet's ontology")
    sub.add_argument("pattern", metavar="PATTERN", nargs="?", default="", help="only what has this in its name")
    sub.add_argument("--json", action="store_true", help="print a list of names as JSON")
    sub.add_argument("--model", default="talnet", help='name, directory or "hf://org/repo" (default: talnet)')

    sub = add("plot", _plot, "draw the spectrogram of a recording over a timeline of its strongest sound events")
    sub.add_argument("file", metavar="FILE", type=Path)
    sub.add_argument(
        "-o",
        "--out",
        required=True,
        type=Path,
        help="picture to write: .png, .svg or .pdf; or .html, a page that plays the recording on a click",
    )
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
        "--labels",
        metavar="LABELS",
        action="append",
        help='only these sounds and all below them in the tree that "labels" prints; separated by ";", upper or lower '
        "case (default: all)",
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
        from sedembed.models.labels import find_labels

        wanted = [label.strip() for text in options.labels for label in text.split(";") if label.strip()]
        given["labels"] = find_labels(model.labels, wanted)
    return EventRules.check(model.labels, model.frame_rate, threshold, **given)


def _detect(options: argparse.Namespace) -> int:
    from sedembed.batch.annotate import detect_recordings
    from sedembed.detection.extract import extract_events
    from sedembed.detection.formats import EACH, FORMATS, format_of, open_events, short_names

    form = options.format or format_of(options.out)
    if not 0.0 <= options.margin < math.inf:
        raise InvalidArgumentError(f"--margin needs a number of seconds of at least 0, got {options.margin:g}.")
    recordings = find_recordings(options.paths)
    several = len(recordings.paths) > 1 or any(path.is_dir() for path in options.paths)
    each = form in EACH and several
    if each and (options.out is None or options.out.is_file()):
        raise InvalidArgumentError(
            f"{form.capitalize()} has a file for each recording: give -o a folder for those of several."
        )
    names = short_names(recordings.paths, words=form == "rttm")
    starts = _find_starts(options.start, recordings.paths)
    clock = options.start is not None
    model = load(options)
    rules = _rules(options, model)
    found = detect_recordings(
        model.runner, recordings.folder, recordings.paths, rules, options.out, progress=recordings.bar
    )
    summary = _Summary()
    good = (summary.add(annotation) for annotation in recordings.report(found))
    first = next(good, None)
    if first is None:  # nothing to write: a file of an earlier run stays
        return SOME_FAILED
    with contextlib.ExitStack() as opened:
        writer = None
        if not each:
            stream = sys.stdout if options.out is None else opened.enter_context(open_events(options.out))
            writer = FORMATS[form](stream, clock)
        for path, duration, events, _ in chain([first], good):
            if options.extract is not None:
                extract_events(recordings.folder / path, events, options.extract, names[path], margin=options.margin)
            if writer is None:
                with open_events(options.out / f"{names[path]}{EACH[form]}") as own:
                    FORMATS[form](own, clock).add(path, names[path], duration, events, starts.get(path))
            else:
                writer.add(path, names[path], duration, events, starts.get(path))
                stream.flush()
        if writer is not None:
            writer.finish()
    if options.out is not None or sys.stderr.isatty():
        complain(summary.describe())
    return recordings.exit_code


class _Summary:
    """What was found in all recordings, for a line at the end."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._recordings, self._seconds, self._counts = 0, 0.0, Counter[str]()

    def add(self, found: Annotation) -> Annotation:
        """Count the events of a recording, and pass it on."""
        self._recordings += 1
        self._seconds += found.duration
        self._counts.update(event.label for event in found.values)
        return found

    def describe(self) -> str:
        """Say how many there are of which sounds, in how much sound, and how long it took."""
        took = max(time.monotonic() - self._began, 1e-3)
        most = [f"{label} {count}" for label, count in self._counts.most_common(8)]
        rest = len(self._counts) - len(most)
        events = self._counts.total()
        found = f"{events} event{'' if events == 1 else 's'}"
        if events:
            found += f" ({', '.join(most)}{f', {rest} other sounds' if rest else ''})"
        files = f"{self._recordings} recording{'' if self._recordings == 1 else 's'}"
        return f"{found} in {files} of {_duration(self._seconds)}; took {_duration(took)}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    return (
        f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d} h"
        if whole >= 3600
        else f"{whole // 60}:{whole % 60:02d} min"
    )


def _find_starts(start: str | None, paths: Sequence[str]) -> dict[str, datetime]:
    """When each recording began, as far as it is known."""
    from sedembed.detection.clock import parse_start, start_from_name

    if start is None:
        return {}
    if start != "names":
        if len(paths) > 1:
            raise InvalidArgumentError(
                f"--start {start} is for one recording, got {len(paths)}. Write --start names to take the times from "
                "the file names."
            )
        return dict.fromkeys(paths, parse_start(start))
    starts = {path: found for path in paths if (found := start_from_name(path)) is not None}
    without = [path for path in paths if path not in starts]
    if without:
        complain(f"{len(without)} of {len(paths)} file names hold no time, such as {without[0]}; --start TIME gives it")
    return starts


def _labels(options: argparse.Namespace) -> int:
    from sedembed.models.labels import find_label, list_below, load_hierarchy
    from sedembed.models.weights import load_network

    names = load_network(options.model).labels
    hierarchy, known, pattern = load_hierarchy(), set(names), options.pattern.lower()
    groups = [group for group in hierarchy if group not in known and list_below(group) & known]
    matching = [name for name in (*groups, *names) if pattern in name.lower()]
    if not matching:
        matching = [find_label([*groups, *names], options.pattern, "PATTERN")]
    # What is below another match is shown under that.
    below = set[str]().union(*(list_below(name) for name in matching))
    top = [name for name in matching if name not in below]
    if options.json:
        print_json([name for name in names if name in below or name in matching])
        return GOOD
    for line in chain.from_iterable(_tree(name, hierarchy, known, 0) for name in top):
        print(line)
    return GOOD


def _tree(name: str, hierarchy: Mapping[str, Sequence[str]], known: set[str], depth: int) -> Iterator[str]:
    """Lines of a class and all below it; groups that are no sound event of the model are in brackets."""
    children = [line for child in hierarchy.get(name, ()) for line in _tree(child, hierarchy, known, depth + 1)]
    if name in known or children:
        yield "  " * depth + (name if name in known else f"[{name}]")
    yield from children


def _plot(options: argparse.Namespace) -> int:
    from sedembed._analysis.page import link_to
    from sedembed._analysis.timeline import PAGE, check_picture, draw_timeline, read_timeline, save_picture
    from sedembed._analysis.timeline_page import PAGE_COLUMNS, timeline_page
    from sedembed._utils.files import make_folder, write_atomic

    if options.k < 1:
        raise InvalidArgumentError(f"-k needs a number of sound events of at least 1, got {options.k}")
    check_picture(options.out)
    model = load(options)
    if options.out.suffix.lower() == PAGE:
        timeline = read_timeline(model, options.file, _rules(options, model), PAGE_COLUMNS)
        make_folder(options.out.parent)
        write_atomic(options.out, timeline_page(timeline, link_to(options.file, options.out), options.k))
        return GOOD
    timeline = read_timeline(model, options.file, _rules(options, model))
    save_picture(draw_timeline(timeline, options.k), options.out)
    return GOOD
