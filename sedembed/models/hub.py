"""Fetch weights from a Hugging Face hub, with no connection once they are in its cache."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sedembed.errors import DownloadError, ModelNotFoundError, OfflineError

__all__ = ["fetch"]

_URI = re.compile(r"(?!.*\.\.)hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")

_logger = logging.getLogger(__name__)


def fetch(
    uri: str, *names: str, cache_dir: str | os.PathLike[str] | None = None, local_files_only: bool = False
) -> tuple[str, Path]:
    """Files of one commit of a repository, from the cache where it has them all, else from the hub.

    Parameters
    ----------
    uri : str
        "hf://org/repo" or "hf://org/repo@revision"; the default revision is "main".
    *names : str
        Files that are needed.
    cache_dir : path, optional
        The cache; default is huggingface_hub's.
    local_files_only : bool
        Make no connection; so do the environment variables HF_HUB_OFFLINE=1 and SEDEMBED_OFFLINE=1.

    Returns
    -------
    repo : str
        "org/repo".
    path : Path
        The last file, in the cache's directory of the commit; the others lie beside it.

    Raises
    ------
    ModelNotFoundError
        If `uri` is not of that form.
    OfflineError
        If a file is not in the cache and connections are not allowed.
    DownloadError
        If fetching failed; a file that came in part is never kept.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise ModelNotFoundError(f"Expected hf://org/repo or hf://org/repo@revision, got {uri!r}.")
    repo, revision = match["repo"], match["revision"] or "main"
    cache = None if cache_dir is None else Path(cache_dir).expanduser()
    from huggingface_hub import try_to_load_from_cache

    try:
        cached = [try_to_load_from_cache(repo, name, cache_dir=cache, revision=revision) for name in names]
    except ValueError as error:
        raise ModelNotFoundError(f"{uri} does not name a repository: {error}") from error
    if all(isinstance(path, str) for path in cached):
        path = Path(str(cached[-1]))
    else:
        reason = _offline_reason(local_files_only)
        if reason:
            raise OfflineError(
                f"{uri} is not in the cache of this machine, and connections are not allowed ({reason}). "
                "Load it once with connections allowed, or copy the directory here and load it by its path."
            )
        path = _download(uri, repo, revision, names, cache)
    _logger.info("%s: using commit %s", uri, path.parent.name)
    return repo, path


def _offline_reason(local_files_only: bool) -> str:
    if local_files_only:
        return "local_files_only=True"
    for variable in ("SEDEMBED_OFFLINE", "HF_HUB_OFFLINE"):
        if os.environ.get(variable, "").upper() in {"1", "ON", "YES", "TRUE"}:
            return f"{variable} is set"
    return ""


def _download(uri: str, repo: str, revision: str, names: tuple[str, ...], cache: Path | None) -> Path:
    from huggingface_hub import hf_hub_download

    path = name = ""
    try:
        with _no_telemetry():
            for name in names:
                path = hf_hub_download(
                    repo,
                    name,
                    revision=revision,
                    cache_dir=cache,
                    library_name="sedembed",
                    endpoint=os.environ.get("HF_ENDPOINT") or None,
                )
                # The branch may move between two files: the second comes from the commit of the first.
                revision = Path(path).parent.name
    except Exception as error:  # the client's own, its HTTP library's and the system's errors have no common base
        causes = [f"{type(error).__name__}: {error}"]
        if error.__cause__ is not None:
            causes.append(f"{type(error.__cause__).__name__}: {error.__cause__}")
        raise DownloadError(
            f"Could not fetch {name} of {uri}: {'; caused by '.join(causes)}. "
            "Check the name, the revision and the connection, then load again."
        ) from error
    return Path(path)


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """Keep huggingface_hub from telling its server what else is installed and what drives the process."""
    from huggingface_hub import constants

    before = constants.HF_HUB_DISABLE_TELEMETRY
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = before
