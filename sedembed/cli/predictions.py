"""How predictions are written: rows with probabilities, or events that rows were merged to."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sedembed.probe.probe import LinearProbe

__all__ = ["Predicted", "open_output", "write_events", "write_rows"]


class Predicted(NamedTuple):
    """Where a row is, and the probability of each class."""

    place: dict[str, Any]
    probabilities: NDArray[np.float64]


def write_rows(out: TextIO, probe: LinearProbe, rows: Iterator[Predicted], as_json: bool) -> int:
    """Write what is predicted for each row and the probabilities; return how many rows there were."""
    classes = [str(name) for name in probe.classes_]
    writer = csv.writer(out, lineterminator="\n")
    count = 0
    for place, probabilities in rows:
        shown = [f"{p:.6g}" for p in probabilities.tolist()]
        predicted, probability = _decide(classes, probabilities, probe.multilabel_)
        if as_json:
            named = dict(zip(classes, map(float, shown), strict=True))
            values = {**place, "predicted": predicted, "probability": float(f"{probability:.6g}")}
            out.write(json.dumps({**values, "probabilities": named}, ensure_ascii=False) + "\n")
        else:
            if not count:
                writer.writerow([*place, "predicted", "probability", *classes])
            writer.writerow([*place.values(), predicted, f"{probability:.6g}", *shown])
        count += 1
    if not count and not as_json:
        writer.writerow(["path", "predicted", "probability", *classes])
    return count


def write_events(out: TextIO, probe: LinearProbe, rows: Iterator[Predicted], as_json: bool) -> int:
    """Write events: windows of one recording with the same label, joined; return how many there were."""
    writer, columns = csv.writer(out, lineterminator="\n"), ("path", "start", "end", "label", "probability")
    if not as_json:
        writer.writerow(columns)
    count = 0
    for event in _merge([str(name) for name in probe.classes_], rows, probe.multilabel_):
        values = [*event[:4], float(f"{event[4]:.6g}")]
        if as_json:
            out.write(json.dumps(dict(zip(columns, values, strict=True)), ensure_ascii=False) + "\n")
        else:
            writer.writerow(values)
        count += 1
    return count


def _merge(
    classes: Sequence[str], rows: Iterator[Predicted], multilabel: bool
) -> Iterator[tuple[str, float, float, str, float]]:
    """Give path, start, end, label and highest probability of each event, in the order in which events end."""
    running: dict[str, tuple[str, float, float, str, float]] = {}
    for place, probabilities in rows:
        path, start, end = place["path"], place["start"], place["end"]
        likely = [k for k, p in enumerate(probabilities.tolist()) if p > 0.5]
        found = likely if multilabel else [int(probabilities.argmax())]
        labels = {classes[k]: float(probabilities[k]) for k in found}
        for label in [*running]:
            event = running[label]
            # Rounding of seconds must not part windows that follow one another.
            if event[0] != path or label not in labels or start > event[2] + 1e-6:
                yield running.pop(label)
        for label, probability in labels.items():
            _, first, _, _, highest = running.get(label, (path, start, end, label, 0.0))
            running[label] = (path, first, end, label, max(highest, probability))
    yield from running.values()


def _decide(classes: Sequence[str], probabilities: NDArray[np.float64], multilabel: bool) -> tuple[str, float]:
    """Most likely class and its probability; of any number of labels those above a half, and the highest one."""
    best = int(probabilities.argmax())
    if not multilabel:
        return classes[best], float(probabilities[best])
    found = [name for name, p in zip(classes, probabilities.tolist(), strict=True) if p > 0.5]
    return ";".join(found), float(probabilities[best])


@contextmanager
def open_output(file: Path | None) -> Iterator[TextIO]:
    """Give standard output, or a file that appears complete or not at all."""
    if file is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    from sedembed._utils.files import atomic_file

    with atomic_file(file) as opened:
        text = io.TextIOWrapper(opened, encoding="utf-8", newline="")
        yield text
        text.flush()
        text.detach()
