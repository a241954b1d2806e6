"""The command finetune."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from sedembed.cli.common import GOOD, SOME_FAILED, AddCommand, complain, print_json

__all__ = ["register"]


def register(add: AddCommand) -> None:
    """Add the commands of this module."""
    sub = add(
        "finetune", _finetune, "train a network further on labelled recordings, or continue where that was interrupted"
    )
    sub.add_argument("folder", metavar="FOLDER", type=Path)
    sub.add_argument(
        "--labels",
        metavar="folder|CSV",
        required=True,
        help='"folder": the class of a recording is the first folder of its path; or a CSV of path,label',
    )
    sub.add_argument(
        "-o", "--out", metavar="MODEL", type=Path, required=True, help="directory of the model and its probe"
    )
    sub.add_argument("--model", default="talnet", help='name, directory or "hf://org/repo" (default: talnet)')
    sub.add_argument(
        "--group-column",
        metavar="NAME",
        help="column of the CSV; recordings with the same value are all trained on or all held out",
    )
    sub.add_argument("--epochs", type=int, help="most passes over the recordings (default: 10)")
    sub.add_argument("--patience", type=int, help="stop after so many epochs without a better one (default: 3)")
    sub.add_argument(
        "--validation-share", metavar="X", type=float, help="share of the recordings held out (default: 0.1)"
    )
    sub.add_argument("--learning-rate", metavar="X", type=float, help="of the network (default: 0.0003)")
    sub.add_argument("--batch-size", metavar="N", type=int, help="recordings of a step (default: 16)")
    sub.add_argument(
        "--frozen-blocks",
        metavar="N",
        type=int,
        help="first blocks of the network that stay as they are: faster, and for few recordings (default: 0)",
    )
    sub.add_argument(
        "--precision",
        choices=["auto", "float32", "bfloat16"],
        help="auto: bfloat16 where the processor or GPU has instructions for it (default: auto)",
    )
    sub.add_argument("--seed", type=int, help="of the held-out part and of the order (default: 0)")
    sub.add_argument("--device", help="such as cpu or cuda:0 (default: the first GPU, else the CPU)")
    sub.add_argument("--workers", type=int, help="decoder threads (default: by the number of cores)")
    sub.add_argument("--json", action="store_true", help="print the result as JSON")


def _finetune(options: argparse.Namespace) -> int:
    from sedembed._training.finetune import finetune
    from sedembed._training.finetune_config import FinetuneConfig

    chosen = {item.name: getattr(options, item.name, None) for item in fields(FinetuneConfig)}
    result = finetune(
        options.folder,
        options.labels,
        options.out,
        options.model,
        group=options.group_column,
        device=options.device,
        workers=options.workers,
        **{name: value for name, value in chosen.items() if value is not None},
    )
    unreadable = options.out / "training" / "unreadable.csv"
    if unreadable.exists():
        complain(f"some recordings cannot be decoded and were left out; they are listed in {unreadable}")
    if options.json:
        print_json({**result._asdict(), "model": str(result.model)})
    else:
        print(
            f"{result.metric} on {result.validation} recordings held out: {result.before:.4f} by a linear probe "
            f"before, {result.after:.4f} after epoch {result.epoch} of {result.epochs}; the model is in "
            f"{result.model}, its probe in {result.model / 'probe'}"
        )
    return SOME_FAILED if unreadable.exists() else GOOD
