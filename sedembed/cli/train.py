"""The command train."""

from __future__ import annotations

import argparse
import csv
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sedembed.cli.common import GOOD, SOME_FAILED, AddCommand, complain, print_json
from sedembed.errors import InvalidArgumentError

if TYPE_CHECKING:
    from sedembed._training.clips import ClipSet
    from sedembed._training.features import FeatureStore
    from sedembed._training.settings import TrainConfig

__all__ = ["register"]

_METRICS = {"map": "MAP", "mauc": "MAUC", "d_prime": "d'"}


def register(add: AddCommand) -> None:
    """Add the commands of this module."""
    sub = add("train", _train, "train a network on a copy of AudioSet, or continue where that was interrupted")
    sub.add_argument("model", help="architecture: talnet, weanet, or another registered one")
    sub.add_argument(
        "--data", metavar="DIR", type=Path, required=True, help="AudioSet's lists of segments and recordings"
    )
    sub.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder of the run")
    sub.add_argument("--config", metavar="FILE", type=Path, help="settings that differ from the defaults, as JSON")
    sub.add_argument("--cache", metavar="DIR", type=Path, help="compute features once, into this folder")
    sub.add_argument(
        "--validation",
        choices=["held-out", "eval", "none"],
        help="clips to validate on (default: held-out, a share of the training clips)",
    )
    sub.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    sub.add_argument("--workers", type=int, help="decoder threads (default: by the number of cores)")
    sub.add_argument("--stage", type=int, help="with self-teaching: run this stage only")
    sub.add_argument("--tensorboard", action="store_true", help="write events for TensorBoard beside the CSV log")
    sub.add_argument("--json", action="store_true", help="print the result as JSON")


def _train(options: argparse.Namespace) -> int:
    from sedembed._training.clips import check_share, choose_part, hold_out, read_audioset_parts
    from sedembed._training.distributed import current_processes, join_processes
    from sedembed._training.features import FeatureStore

    config = _read_config(options)
    with join_processes(options.device) as device:
        network = config.build(1)

        def read_part(part: str) -> tuple[ClipSet, FeatureStore]:
            clips, absent = choose_part(parts, options.data, part)
            missing.extend(absent)
            if current_processes().first:
                _write_missing(options.out, missing)
            check_share(len(clips), len(absent), config.min_share, part)
            cache = None if options.cache is None else options.cache / part
            workers, share = options.workers, config.min_share
            return clips, FeatureStore.open(clips, network, cache, workers=workers, min_share=share)

        if not current_processes().first:
            # Every process would log the same.
            logging.getLogger("sedembed").setLevel(logging.ERROR)
        parts, missing = read_audioset_parts(options.data), list[str]()
        clips, features = read_part("train")
        data = _Data(clips, features, None, None)
        if config.validation == "held-out":
            train, held_out = hold_out(clips, config.validation_share)
            data = _Data(train, features.subset(train), held_out, features.subset(held_out))
        elif config.validation == "eval":
            data = _Data(clips, features, *read_part("eval"))
        models = _run(config, data, options, device)
        result = _describe(models, data, len(missing))
        if current_processes().first:
            _print(result, options)
    return SOME_FAILED if result["unreadable_clips"] else GOOD


class _Data(NamedTuple):
    """Clips to train and to validate on."""

    train: ClipSet
    train_features: FeatureStore
    validation: ClipSet | None
    validation_features: FeatureStore | None


def _read_config(options: argparse.Namespace) -> TrainConfig:
    from sedembed._training.settings import TrainConfig

    if options.workers is not None and options.workers < 1:
        raise InvalidArgumentError(f"--workers needs a whole number of at least 1, got {options.workers}.")
    chosen = {} if options.validation is None else {"validation": options.validation}
    if options.config is None:
        config = TrainConfig(model=options.model, **chosen)
    else:
        # A file that names no model is for any.
        config = TrainConfig.read(options.config, model=options.model, **chosen)
    if options.stage is not None and config.sustain is None:
        raise InvalidArgumentError(
            "--stage is for self-teaching. Add a table sustain to the settings, or leave it out."
        )
    return config


def _run(config: TrainConfig, data: _Data, options: argparse.Namespace, device: Any) -> list[Path]:
    """Train; the model directory, or those of the stages."""
    common: dict[str, Any] = {
        "validation": data.validation,
        "validation_features": data.validation_features,
        "device": device,
        "tensorboard": options.tensorboard,
    }
    if config.sustain is None:
        from sedembed._training.loop import Training

        return [Training(config, data.train, data.train_features, options.out, **common).run()]
    from sedembed._training.sustain import SustainConfig, run_stages

    sustain = SustainConfig.from_table(config.sustain)
    return run_stages(config, sustain, data.train, data.train_features, options.out, only_stage=options.stage, **common)


def _describe(models: list[Path], data: _Data, missing: int) -> dict[str, Any]:
    """Collect the scores of the last stage, and how many clips there were."""
    unreadable: set[str] = set()
    for model in models:
        file = model.parent / "unreadable.csv"
        if file.exists():
            with file.open(newline="", encoding="utf-8") as stream:
                unreadable.update(row["path"] for row in csv.DictReader(stream))
    result = json.loads((models[-1].parent / "result.json").read_bytes())
    return {
        **result,
        "model": str(models[-1]),
        "training_clips": len(data.train),
        "missing_clips": missing,
        "unreadable_clips": len(unreadable),
    }


def _print(result: dict[str, Any], options: argparse.Namespace) -> None:
    if result["missing_clips"]:
        complain(f"{result['missing_clips']} clips are missing; they are listed in {options.out / 'missing.txt'}")
    if result["unreadable_clips"]:
        listed = Path(result["model"]).with_name("unreadable.csv")
        complain(f"{result['unreadable_clips']} clips cannot be decoded and were left out; they are listed in {listed}")
    if options.json:
        print_json(result)
        return
    best = result["best"]
    scores = "no validation"
    if best is not None:
        shown = {name: "undefined" if best[name] is None else f"{best[name]:.4f}" for name in _METRICS}
        scores = ", ".join(f"{title} {shown[name]}" for name, title in _METRICS.items())
        scores = f"{scores} at step {best['step']} on {result['validation_clips']} clips"
    print(f"{scores}; the model is in {result['model']}")


def _write_missing(out: Path, missing: list[str]) -> None:
    from sedembed._utils.files import make_folder, write_atomic

    make_folder(out)
    write_atomic(out / "missing.txt", "".join(f"{path}\n" for path in missing).encode(errors="backslashreplace"))
