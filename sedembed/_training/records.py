"""The folder of a training run: settings, versions, log, and clips that were left out."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from sedembed._training.clips import ClipSet
from sedembed._utils.files import write_atomic
from sedembed._utils.schema import read_json_file
from sedembed._utils.versions import list_versions
from sedembed.errors import DatasetError, DivergedError, MissingPackageError

__all__ = ["LOG_COLUMNS", "RunFolder", "find_revision", "fingerprint", "training_versions"]

logger = logging.getLogger(__name__)

LOG_COLUMNS = (
    "step",
    "loss",
    "learning_rate",
    "gradient_norm",
    "audio_seconds_per_second",
    "validation_map",
    "validation_mauc",
    "validation_d_prime",
)


class Settings(Protocol):
    """Settings of a training: a dataclass whose fields all have defaults."""

    def as_table(self) -> dict[str, Any]:
        """All settings as plain values for JSON."""


class RunFolder:
    """Files of one run; only the first of several processes writes them.

    Parameters
    ----------
    path : Path
        Made with the settings if missing.
    writes : bool
        Whether this process is the first.
    columns : sequence of str
        Columns of the log; the first is "step".
    tensorboard : bool
        Write events for TensorBoard beside the CSV log.
    """

    def __init__(
        self, path: Path, writes: bool = True, *, columns: Sequence[str] = LOG_COLUMNS, tensorboard: bool = False
    ) -> None:
        self.path = path
        self.checkpoint = path / "checkpoint.pt"
        self._writes = writes
        self._columns = tuple(columns)
        self._board: Any = None
        self._tensorboard = tensorboard and writes
        if self._tensorboard:
            _find_summary_writer()

    # --- settings and circumstances ---------------------------------------------------------------------------------

    def check_settings(self, settings: Settings) -> bool:
        """Compare settings with those of the run in the folder; False if there is no run yet.

        A setting that did not exist yet when the run began has its default.

        Raises
        ------
        DatasetError
            If the folder holds a run with other settings, or something else.
        """
        file = self.path / "config.json"
        if not file.exists():
            if self.checkpoint.exists():
                raise DatasetError(f"{self.path} holds a checkpoint without settings. Choose another folder.")
            return False
        table = _plain(settings)
        found = {**_plain(type(settings)()), **read_json_file(file, DatasetError)}
        other = sorted(key for key in {*table, *found} if table.get(key) != found.get(key))
        if other:
            raise DatasetError(
                f"{self.path} holds a run with other settings ({', '.join(other)}). Choose another folder, or use the "
                "settings of that run to continue it."
            )
        return True

    def write_settings(self, settings: Settings) -> None:
        """Write the settings of a new run."""
        self.write("config.json", _plain(settings))

    def check_or_write(self, settings: Settings, data: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Write settings and circumstances of a new run, or check them against those of the run in the folder.

        Parameters
        ----------
        settings : Settings
            Must be those of the run.
        data : mapping
            What the result depends on besides: fingerprints of clips and of the initial weights. Must be the same.
        about : mapping
            Versions, device and so on; written once for each time that the run was started.

        Raises
        ------
        DatasetError
            If the folder holds another run, or something else.
        """
        if not self.check_settings(settings):
            self.write("run.json", {**data, "starts": [dict(about)]})
            self.write_settings(settings)
            return
        file = self.path / "run.json"
        run = read_json_file(file, DatasetError)
        starts = run.get("starts")
        if not isinstance(starts, list) or not all(isinstance(start, dict) for start in starts):
            raise DatasetError(f"Expected a list of starts in {file}, got {starts!r:.80}. Choose another folder.")
        changed = sorted(key for key in data if run.get(key) != data[key])
        if changed:
            raise DatasetError(
                f"{self.path} holds a run on other data ({', '.join(changed)}). Choose another folder, or give the "
                "clips that it began with."
            )
        if starts and starts[-1].get("versions") != about.get("versions"):
            logger.warning("%s was begun with other versions: the result may differ in rounding", self.path)
        self.write("run.json", {**run, "starts": [*starts, dict(about)]})

    def diverged(self, step: int, what: str) -> DivergedError:
        """Make the error for a training that stops at a step because something is not finite."""
        good = self.checkpoint
        kept = f"The last good state is in {good}." if good.exists() else "No checkpoint had been written yet."
        return DivergedError(
            f"Training stopped at step {step}: {what} is not finite. {kept} Begin a new run with a lower "
            "learning_rate, a lower gradient_norm, or precision float32."
        )

    # --- files -------------------------------------------------------------------------------------------------------

    def write(self, name: str, value: Any) -> None:
        """Write JSON under a name, complete or not at all."""
        self.write_bytes(
            name, json.dumps(value, indent=2, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
        )

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file under a name, complete or not at all."""
        if self._writes:
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path / name, content)

    def write_failures(self, failures: Mapping[str, tuple[str, str]]) -> None:
        """List clips that could not be decoded: path, error, message. Those of earlier starts stay."""
        file = self.path / "unreadable.csv"
        known: dict[str, tuple[str, str]] = {}
        if file.exists():
            with file.open(newline="", encoding="utf-8") as stream:
                known = {row["path"]: (row["error"], row["message"]) for row in csv.DictReader(stream)}
        shown = {path.encode(errors="backslashreplace").decode(): value for path, value in failures.items()}
        everything = {**known, **shown}
        if everything == known:
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("path", "error", "message"))
        writer.writerows((path, *everything[path]) for path in sorted(everything))
        self.write_bytes("unreadable.csv", text.getvalue().encode(errors="backslashreplace"))

    # --- the log --------------------------------------------------------------------------------------------------

    def rewind(self, step: int) -> None:
        """Drop what the log says of steps after `step`, which will be taken again."""
        file = self.path / "log.csv"
        if not self._writes:
            return
        rows: list[dict[str, str]] = []
        if file.exists():
            with file.open(newline="", encoding="utf-8") as stream:
                # The last line may have been cut by whatever ended the run.
                rows = [row for row in csv.DictReader(stream) if _is_step(row.get("step")) and None not in row.values()]
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(row for row in rows if int(row["step"]) <= step)
        self.write_bytes("log.csv", text.getvalue().encode())
        if self._tensorboard:
            self._board = _find_summary_writer()(str(self.path / "tensorboard"), purge_step=step + 1)

    def log(self, row: Mapping[str, Any]) -> None:
        """Add a line to the log, and to TensorBoard."""
        if not self._writes:
            return
        cells = {name: "" if row.get(name) is None else _shown(row[name]) for name in self._columns}
        with (self.path / "log.csv").open("a", newline="", encoding="utf-8") as stream:
            csv.DictWriter(stream, self._columns, lineterminator="\n").writerow(cells)
        logger.info(", ".join(f"{name} {value}" for name, value in cells.items() if value))
        if self._board is not None:
            for name in self._columns[1:]:
                if row.get(name) is not None:
                    self._board.add_scalar(name.replace("validation_", "validation/"), row[name], row["step"])
            self._board.flush()

    def close(self) -> None:
        """Close what is open."""
        if self._board is not None:
            self._board.close()
            self._board = None


def fingerprint(clips: ClipSet | None) -> str | None:
    """Hash of names, classes and targets."""
    if clips is None:
        return None
    digest = hashlib.sha256("\0".join((*clips.names, "", *clips.classes)).encode(errors="surrogateescape"))
    digest.update(np.ascontiguousarray(clips.targets).data)
    return digest.hexdigest()


def training_versions() -> dict[str, str | None]:
    """Versions of what the result of a training depends on."""
    return {**list_versions("torch", "numpy", "soundfile", "soxr", "librosa"), "cuda": torch.version.cuda}


def find_revision() -> str:
    """Git revision of this code, with "-dirty" if files were changed; "unknown" where it is not in a repository."""
    here = Path(__file__).resolve()
    try:
        # An installed copy may lie in a repository that it has nothing to do with.
        _git(here, "ls-files", "--error-unmatch", str(here.with_name("__init__.py")))
        return _git(here, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(file: Path, *arguments: str) -> str:
    command = ["git", "-C", str(file.parent), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


def _find_summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingPackageError(
            "TensorBoard is not installed. Install it by pip install 'sedembed[train]', or leave its log out."
        ) from error
    return SummaryWriter


def _plain(settings: Settings) -> dict[str, Any]:
    """Return settings as JSON gives them back."""
    return dict(json.loads(json.dumps(settings.as_table())))


def _is_step(text: str | None) -> bool:
    return text is not None and text.isdigit()


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
