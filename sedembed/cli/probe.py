"""The commands probe fit and probe predict."""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sedembed.cli.common import (
    GOOD,
    SOME_FAILED,
    AddCommand,
    Command,
    complain,
    load_probe_model,
    print_json,
    warnings_said,
)
from sedembed.cli.predictions import Predicted, open_output, write_events, write_rows
from sedembed.errors import InvalidArgumentError, MissingFileError, ProbeError, SedembedError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sedembed.probe.evaluation import Evaluation
    from sedembed.probe.inputs import StoreLabels
    from sedembed.probe.label_table import Aligned, LabelTable
    from sedembed.probe.probe import LinearProbe
    from sedembed.store.store import EmbeddingStore

__all__ = ["register"]

_PARTS = {
    "train": ("train", "training", "no", "false", "0"),
    "validation": ("validation", "valid", "val", "yes", "true", "1"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def register(add: AddCommand) -> None:
    """Add the commands of this module."""
    group = add("probe", _fit, "fit a linear classifier on the vectors of a store, or use one")
    commands = group.add_subparsers(required=True, metavar="COMMAND")
    group.set_defaults(commands=commands.choices)

    sub = _add(commands, "fit", _fit, "fit a linear classifier on the vectors of a store")
    sub.add_argument("store", metavar="STORE", type=Path, help="what `sedembed embed` wrote")
    sub.add_argument(
        "--labels",
        metavar="CSV|folder",
        required=True,
        help='columns path (relative to the embedded folder) and label; several labels of a path separated by ";" make '
        "the task multi-label; start and end (s) label parts of a recording, of a store with windows. folder: the "
        "class of a recording is the first folder of its path",
    )
    sub.add_argument("-o", "--out", metavar="PROBE", required=True, type=Path, help="directory of the probe")
    sub.add_argument(
        "--normalize",
        default="standardize+l2",
        choices=["standardize+l2", "l2", "none"],
        help="what is done to the vectors first (default: standardize+l2)",
    )
    sub.add_argument(
        "--C",
        dest="c",
        metavar="auto|NUMBER",
        default="auto",
        type=_regularisation,
        help="inverse strength of the regularisation (default: auto, chosen on validation data)",
    )
    sub.add_argument(
        "--metric",
        help="the score by which C is chosen: accuracy, top5, map, lwlrap, mauc, "
        "... (default: accuracy, or map if multi-label)",
    )
    sub.add_argument("--cv", metavar="N", type=int, help="folds of the inner split that chooses C (default: 5)")
    split = sub.add_mutually_exclusive_group()
    split.add_argument("--group-column", metavar="NAME", help="rows of one value stay on one side of the inner split")
    split.add_argument("--fold-column", metavar="NAME", help="choose C by leaving out the rows of each value once")
    split.add_argument(
        "--validation-column",
        metavar="NAME",
        help="fit on the rows that say train, choose C on those that say validation; those that say test are scored "
        "at the end",
    )
    sub.add_argument(
        "--folds",
        metavar="N",
        type=int,
        default=5,
        help="folds of the cross-validation whose score is printed; 0 for none (default: 5, or the values of "
        "--fold-column)",
    )
    sub.add_argument(
        "--report",
        metavar="DIR",
        type=Path,
        help="write the cross-validation here: confusion matrix (PNG, CSV), table by class, most confused rows",
    )
    sub.add_argument("--class-weight", choices=["balanced"], help="weigh classes by their rarity")
    sub.add_argument("--device", help="such as cpu or cuda:0 (default: cpu)")
    sub.add_argument("--json", action="store_true", help="print the summary as JSON")

    sub = _add(commands, "predict", _predict, "print the probability of each class for recordings or stored vectors")
    sub.add_argument("probe", metavar="PROBE", type=Path, help="what `sedembed probe fit` wrote")
    sub.add_argument("path", metavar="FILE|FOLDER|STORE", type=Path)
    sub.add_argument("-o", "--out", metavar="OUT.csv", type=Path, help="default: standard output")
    sub.add_argument(
        "--window", metavar="S", type=float, help="predict each window of S seconds of a FILE or FOLDER, not the whole"
    )
    sub.add_argument("--hop", metavar="S", type=float, help="from one window to the next (default: the window)")
    sub.add_argument(
        "--events",
        action="store_true",
        help="of windows: merge those of one recording that touch or overlap and have the same label into events",
    )
    sub.add_argument("--store", metavar="DIR", type=Path, help="keep the vectors of a FOLDER; run again to continue")
    sub.add_argument("--model", help="directory of the model, if the probe was fitted on one that has no public name")
    sub.add_argument("--device", help="such as cpu or cuda:0 (default: the first GPU, else the CPU)")
    sub.add_argument("--precision", choices=["float32", "bfloat16"], help="default: that of the vectors fitted on")
    sub.add_argument("--local-files-only", action="store_true", help="never open a connection")
    sub.add_argument("--json", action="store_true", help="write one JSON object on each line instead of CSV")


def _add(commands: Any, name: str, command: Command, text: str) -> argparse.ArgumentParser:
    sub: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    # No default: it would undo a --verbose that stands before the name of the command.
    sub.add_argument("-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help="say more on stderr")
    sub.set_defaults(command=command)
    return sub


def _regularisation(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f'expected "auto" or a positive number, got {text!r}')
    return value


# --- fit -----------------------------------------------------------------------------------------------------------


def _fit(options: argparse.Namespace) -> int:
    from sedembed.metrics import check_name
    from sedembed.probe.inputs import StoreLabels, column_numbers, places_of
    from sedembed.probe.label_table import table_of
    from sedembed.probe.probe import LinearProbe
    from sedembed.store.store import open_store

    if options.metric is not None:
        check_name(options.metric)
    if options.cv is not None and (options.fold_column or options.validation_column):
        raise InvalidArgumentError(
            "--cv is for an inner split, and the fold or validation column makes another; leave one out"
        )
    if options.folds == 1 or options.folds < 0:
        raise InvalidArgumentError(f"--folds must be at least 2, or 0 for no cross-validation, got {options.folds}.")
    if options.report is not None and (options.folds == 0 or options.validation_column):
        raise InvalidArgumentError("--report is about cross-validation; leave out --folds 0 and --validation-column.")
    _check_place(options.out)
    if options.report is not None:
        from sedembed._utils.plotting import require_matplotlib

        require_matplotlib()
    store = open_store(options.store)
    table = table_of(options.labels, store.paths)
    aligned = table.align(store.paths, places_of(store))
    parts = _parts(table, aligned, options.validation_column)
    _check_classes(aligned, parts)
    settings = {"metric": options.metric, "class_weight": options.class_weight, "device": options.device}
    if options.cv is not None:
        settings["cv"] = options.cv
    probe = LinearProbe(options.c, normalize=options.normalize, **settings)
    groups = column_numbers(table, aligned, options.group_column, len(store))
    folds = column_numbers(table, aligned, options.fold_column, len(store))
    evaluation = None
    with warnings_said():
        # Of the rows that are to be fitted only: the probe reads their vectors from the store, however large it is.
        labels = StoreLabels.of(aligned, table.multilabel)
        named = {part: labels.take(rows) for part, rows in parts.items() if part != "test"}
        probe.fit(
            store,
            named["train"],
            validation=(store, named["validation"]) if "validation" in named else None,
            groups=groups,
            folds=folds,
        )
        if options.folds and options.validation_column is None:
            evaluation = _evaluate(probe, store, labels, options.folds if folds is None else folds, groups)
    probe.save(options.out)

    metric = options.metric or ("map" if table.multilabel else "accuracy")
    scores = {part: _score(probe, metric, store, aligned, rows) for part, rows in parts.items() if part != "train"}
    if probe.scores_:
        scores["validation"] = probe.scores_[probe.C_]
    failures = {row["path"]: f"{row['error']}: {row['message']}" for row in store.failures.to_pylist()}
    for path in aligned.absent:
        complain(f"{path} has a label and no vector: {failures.get(path, 'it is not in the store')}")
    if evaluation is not None and options.report is not None:
        evaluation.save(options.report)
    _report(options, probe, metric, parts, scores, aligned, evaluation)
    return SOME_FAILED if aligned.absent else GOOD


def _evaluate(
    probe: LinearProbe, store: EmbeddingStore, labels: StoreLabels, folds: Any, groups: Any
) -> Evaluation | None:
    """Cross-validate the parameters of a probe; None, and a message, if the rows are too few for it."""
    try:
        return probe.evaluate(store, labels, folds=folds, groups=groups)
    except ValueError as error:
        complain(f"the probe is fitted, but not cross-validated: {error}")
        return None


def _check_place(out: Path) -> None:
    """Refuse before the work what `LinearProbe.save` would refuse after it."""
    from sedembed.probe.serialization import JSON_FILE

    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / JSON_FILE).exists())):
        raise ProbeError(f"{out} is there and is not a probe; choose another directory")


def _parts(table: LabelTable, aligned: Aligned, column: str | None) -> dict[str, NDArray[np.int64]]:
    """Aligned rows to fit on, to choose C on, and to score at the end."""
    import numpy as np

    from sedembed.probe.inputs import aligned_column

    if column is None:
        return {"train": np.arange(len(aligned.rows))}
    meant = {value: part for part, values in _PARTS.items() for value in values}
    parts = []
    for entry, value in zip(aligned.entries, aligned_column(table, aligned, column), strict=True):
        if value.casefold() not in meant:
            raise ProbeError(
                f"{table.file}: the column {column!r} is {value!r} for {table.paths[entry]!r}; expected one of "
                f"{', '.join(meant)}"
            )
        parts.append(meant[value.casefold()])
    found = {part: rows for part in _PARTS if len(rows := np.flatnonzero(np.array(parts) == part))}
    for part in ("train", "validation"):
        if part not in found:
            raise ProbeError(
                f"{table.file}: no row that has a vector has {part!r} in the column {column!r}; mark some, or "
                "leave the column out"
            )
    return found


def _check_classes(aligned: Aligned, parts: Mapping[str, NDArray[np.int64]]) -> None:
    names = {part: {name for row in rows for name in aligned.labels[row]} for part, rows in parts.items()}
    for part in names:
        unknown = sorted(names[part] - names["train"])
        if unknown:
            raise ProbeError(
                f"{len(unknown)} labels of the {part} rows are in no training row, such as {unknown[0]!r}; give them "
                "training rows, or leave their rows out"
            )


def _score(
    probe: LinearProbe, metric: str, store: EmbeddingStore, aligned: Aligned, rows: NDArray[np.int64]
) -> float | None:
    """Score of some of the aligned rows; None, and a message, if the metric has none."""
    import numpy as np

    from sedembed.metrics import compute
    from sedembed.probe.label_table import indicator

    classes = [str(name) for name in probe.classes_]
    scores = np.empty((len(rows), len(classes)))
    place = np.full(len(store), -1)
    place[aligned.rows[rows]] = np.arange(len(rows))
    for stored, block in store.blocks():
        wanted = place[stored] >= 0
        if wanted.any():
            values = probe.decision_function(block[wanted])
            # Two classes have one score between them.
            scores[place[stored][wanted]] = values if values.ndim == 2 else np.column_stack((-values, values))
    y = indicator([aligned.labels[row] for row in rows], classes)
    try:
        return compute(metric, y if probe.multilabel_ else y.argmax(1), scores)
    except ValueError as error:
        complain(f"the probe is saved, but {metric} has no value on {len(rows)} rows: {error}")
        return None


def _report(
    options: argparse.Namespace,
    probe: LinearProbe,
    metric: str,
    parts: Mapping[str, NDArray[np.int64]],
    scores: Mapping[str, float | None],
    aligned: Aligned,
    evaluation: Evaluation | None,
) -> None:
    rows = {part: len(found) for part, found in parts.items()}
    if options.json:
        print_json(
            {
                "probe": str(options.out),
                "model": probe.model_,
                "classes": len(probe.classes_),
                "multilabel": probe.multilabel_,
                "normalize": options.normalize,
                "C": probe.C_,
                "metric": metric,
                "validation_score": scores.get("validation"),
                "cross_validation": None if evaluation is None else evaluation.summary(),
                "test_score": scores.get("test"),
                "rows": rows,
                "labels_without_vector": len(aligned.absent),
                "vectors_without_label": len(aligned.unlabelled),
            }
        )
        return
    kind = "any number of labels a row" if probe.multilabel_ else "one label a row"
    print(f"fitted on {rows['train']} rows, {len(probe.classes_)} classes, {kind}")
    shown = {part: f"{metric} {score:.4f}" for part, score in scores.items() if score is not None}
    if evaluation is not None:
        print(evaluation)
    chosen = f"C = {probe.C_:g}, given"
    if options.c == "auto":
        chosen = f"C = {probe.C_:g}, chosen on validation rows"
        if "validation" in shown:
            chosen += f" by the best {shown['validation']} of {len(probe.scores_)} values, which is no estimate"
    print(chosen)
    if "test" in shown:
        print(f"{shown['test']} on {rows['test']} test rows")
    print(f"{len(aligned.absent)} labels without a vector, {len(aligned.unlabelled)} vectors without a label")
    print(f"the probe is in {options.out}")
    if evaluation is not None and options.report is not None:
        print(f"the report is in {options.report}")


# --- predict -------------------------------------------------------------------------------------------------------


def _predict(options: argparse.Namespace) -> int:
    from sedembed.audio.listing import list_recordings
    from sedembed.probe.probe import LinearProbe
    from sedembed.store.layout import RUN_FILE
    from sedembed.store.store import open_store

    path: Path = options.path
    probe = LinearProbe.load(options.probe)
    if not path.exists():
        raise MissingFileError(
            f"Expected a recording, a folder or a store at {path}, found nothing. Check the spelling."
        )
    if options.out is not None and (options.out.is_dir() or not options.out.absolute().parent.is_dir()):
        raise InvalidArgumentError(f"-o needs the name of a file in a directory that exists, got {options.out}")
    is_store = (path / RUN_FILE).is_file()
    if is_store and (options.store or options.model or options.precision):
        raise InvalidArgumentError(
            f"{path} is a store, whose vectors are made; leave out --store, --model and --precision"
        )
    if is_store and (options.window is not None or options.hop is not None):
        raise InvalidArgumentError(f"{path} is a store, whose windows are cut; leave out --window and --hop.")
    if options.hop is not None and options.window is None:
        raise InvalidArgumentError("--hop is from one window to the next; give --window as well.")
    if options.events and options.window is None and not (is_store and open_store(path).windows):
        raise InvalidArgumentError("--events merges windows; give --window, or a store that was made with it.")
    if options.store and not path.is_dir():
        raise InvalidArgumentError(f"--store keeps the vectors of a folder, and {path} is a file; leave it out")
    with tempfile.TemporaryDirectory(prefix="sedembed-", ignore_cleanup_errors=True) as temporary, warnings_said():
        if path.is_dir():
            store = open_store(path) if is_store else _embed(probe, options, Path(temporary) / "store")
            probe.check_model(store)
            failures = {row["path"]: f"{row['error']}: {row['message']}" for row in store.failures.to_pylist()}
            # A kept store may hold recordings that have left the folder since.
            wanted = set(list_recordings(path, options.store).files) if options.store else None
            rows = _predict_store(probe, store, wanted, Path(temporary) / "probabilities")
        else:
            rows, failures = _predict_file(probe, options)
        with open_output(options.out) as out:
            write = write_events if options.events else write_rows
            count = write(out, probe, rows, options.json)
    for failed, reason in failures.items():
        complain(f"{failed}: {reason}")
    if options.out is not None:
        print(f"{count} predicted, {len(failures)} failed; probabilities in {options.out}")
    return SOME_FAILED if failures else GOOD


def _embed(probe: LinearProbe, options: argparse.Namespace, temporary: Path) -> EmbeddingStore:
    """Embed a folder into a store that is kept, or else into a temporary one."""
    from sedembed.batch.embed_folder import embed_folder

    model = load_probe_model(probe, options)
    if options.store:
        return embed_folder(options.path, options.store, model, window=options.window, hop=options.hop)
    try:
        return embed_folder(options.path, temporary, model, window=options.window, hop=options.hop)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; with --store DIR the same command could be continued") from None


def _predict_file(probe: LinearProbe, options: argparse.Namespace) -> tuple[Iterator[Predicted], dict[str, str]]:
    name, model = options.path.name, load_probe_model(probe, options)
    try:
        if options.window is not None:
            found = model.embed_windows(options.path, window=options.window, hop=options.hop)
            places = zip(found.start.tolist(), found.end.tolist(), probe.predict_proba(found.embeddings), strict=True)
            return (Predicted({"path": name, "start": a, "end": b}, row) for a, b, row in places), {}
        vector = model.embed(options.path)
    except (SedembedError, OSError) as error:
        return iter(()), {name: f"{type(error).__name__}: {error}"}
    return iter([Predicted({"path": name}, probe.predict_proba(vector[None])[0])]), {}


def _predict_store(
    probe: LinearProbe, store: EmbeddingStore, wanted: set[str] | None, file: Path
) -> Iterator[Predicted]:
    """Probabilities of each row, in the order of the store, on disk until they are asked for."""
    import numpy as np

    if not len(store):
        return
    probabilities = np.memmap(file, np.float64, "w+", shape=(len(store), len(probe.classes_)))
    for rows, block in store.blocks():
        probabilities[rows] = probe.predict_proba(block)
    places = store.index.select(["path", "start", "end"] if store.windows else ["path"])
    each = (place for batch in places.to_batches(max_chunksize=8192) for place in batch.to_pylist())
    for place, row in zip(each, probabilities, strict=True):
        if wanted is None or place["path"] in wanted:
            yield Predicted(place, row)
