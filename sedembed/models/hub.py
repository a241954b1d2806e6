"""Fetch weights from a Hugging Face hub, with no connection once they are in its cache, and publish them there."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sedembed._utils.checks import check_path
from sedembed.errors import DownloadError, ModelNotFoundError, OfflineError, UploadError

__all__ = ["fetch", "push_folder"]

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
    cache = None if cache_dir is None else check_path(cache_dir, "cache_dir")
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


def push_folder(
    folder: Path,
    uri: str,
    *names: str,
    private: bool = False,
    message: str = "Upload with sedembed",
    token: str | None = None,
) -> str:
    """Publish files of a folder as one commit of a repository, which is made if there is none.

    Parameters
    ----------
    folder : Path
        Where the files are.
    uri : str
        "org/repo", or "hf://org/repo[@revision]" for a branch that exists.
    *names : str
        The files.
    private : bool
        Whether a repository that is made is private.
    message : str
        Message of the commit.
    token : str, optional
        Access token; by default that of `hf auth login`.

    Returns
    -------
    str
        "hf://org/repo@commit", which `load_model` takes.

    Raises
    ------
    ModelNotFoundError
        If `uri` is not of that form.
    OfflineError
        If SEDEMBED_OFFLINE or HF_HUB_OFFLINE forbids connections.
    UploadError
        If publishing failed. Nothing is published in part: it is one commit.
    """
    match = _URI.fullmatch(uri if uri.startswith("hf://") else f"hf://{uri}")
    if match is None:
        raise ModelNotFoundError(f"Expected org/repo or hf://org/repo[@revision], got {uri!r}.")
    reason = _offline_reason(False)
    if reason:
        raise OfflineError(f"Expected to be allowed to connect to publish {uri}, but {reason}; unset it.")
    from huggingface_hub import CommitOperationAdd, HfApi

    repo = match["repo"]
    try:
        with _no_telemetry():
            api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token, library_name="sedembed")
            api.create_repo(repo, private=private, exist_ok=True)
            additions = [CommitOperationAdd(name, folder / name) for name in names]
            commit = api.create_commit(repo, additions, commit_message=message, revision=match["revision"])
    except Exception as error:  # as in `_download`: errors without a common base
        raise UploadError(
            f"Could not publish {folder} as {repo}: {_say(error)}. Check the name, the token "
            "(hf auth login) and the connection, then publish again."
        ) from error
    return f"hf://{repo}@{commit.oid}"


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
        raise DownloadError(
            f"Could not fetch {name} of {uri}: {_say(error)}. "
            "Check the name, the revision and the connection, then load again."
        ) from error
    return Path(path)


def _say(error: BaseException) -> str:
    """Describe an error and what caused it."""
    causes = [error, *([error.__cause__] if error.__cause__ is not None else [])]
    return "; caused by ".join(f"{type(cause).__name__}: {str(cause).rstrip('.')}" for cause in causes)


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
