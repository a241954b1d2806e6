"""Saving a probe to a directory or a hub, and reading it back."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sklearn.utils.validation import check_is_fitted

from sedembed._utils.checks import check_path
from sedembed.errors import ProbeError
from sedembed.models.card import Figures, format_card
from sedembed.models.hub import fetch, push_folder
from sedembed.probe.checks import check_parameters
from sedembed.probe.serialization import HUB_FILES, SavedProbe, read_probe, write_probe

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SavedMixin"]


class SavedMixin:
    """What `LinearProbe` has for saving and reading."""

    if TYPE_CHECKING:

        def __init__(self, **parameters: Any) -> None: ...

        def __getattr__(self, name: str) -> Any: ...

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the fitted probe: a directory with ``probe.json`` and ``probe.safetensors``, no pickle.

        Parameters
        ----------
        path : path
            A directory; a probe that is there is replaced once the new one is complete.

        Returns
        -------
        Path
            The directory.

        Raises
        ------
        ProbeError
            If something else is there, it cannot be written, or classes are neither numbers nor strings.
        """
        return write_probe(self._saved(), check_path(path, "path"))

    def _saved(self) -> SavedProbe:
        check_is_fitted(self)
        tensors = {"coef": self.coef_, "intercept": self.intercept_, "mean": self.mean_, "scale": self.scale_}
        known = (self.multilabel_, self.C_, self.scores_, self.n_iter_, self.model_)
        return SavedProbe(self.get_params(deep=False), self.classes_, tensors, *known)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a probe that `save` wrote.

        Parameters
        ----------
        path : path
            The directory.

        Returns
        -------
        LinearProbe
            Gives bit for bit what the saved one gave.

        Raises
        ------
        ProbeError
            If there is none, or it is damaged or of a newer format.
        """
        file = check_path(path, "path")
        return cls._restore(read_probe(file), file)

    @classmethod
    def _restore(cls, saved: SavedProbe, file: Path) -> Self:
        try:
            probe: Any = cls(**saved.parameters)
            check_parameters(probe)
        except (TypeError, ValueError) as error:
            raise ProbeError(f"{file} is damaged ({error}); restore it from a copy, or fit again.") from error
        probe.coef_, probe.intercept_ = saved.tensors["coef"], saved.tensors["intercept"]
        probe.mean_, probe.scale_ = saved.tensors["mean"], saved.tensors["scale"]
        probe.classes_, probe.multilabel_, probe.model_ = saved.classes, saved.multilabel, saved.model
        probe.C_, probe.scores_, probe.n_iter_ = saved.c, saved.scores, saved.passes
        probe.n_features_in_ = probe.coef_.shape[1]
        return cast("Self", probe)

    # --- hub ------------------------------------------------------------------------------------------------------

    def save_pretrained(
        self, directory: str | os.PathLike[str], *, card: str | None = None, figures: Figures | None = None
    ) -> Path:
        """Write the fitted probe as hubs have models: ``config.json``, ``model.safetensors`` and a model card.

        Parameters
        ----------
        directory : path
            A probe that is there is replaced once the new one is complete.
        card : str, optional
            Text of ``README.md``; by default one that names the classes and the model of the vectors.
        figures : mapping, optional
            Measured figures for the ``model-index`` of the default card: ``{"My sounds": {"accuracy": 0.93}}``.

        Returns
        -------
        Path
            The directory, which `from_pretrained` takes.

        Raises
        ------
        ProbeError
            As for `save`.
        """
        path = Path(directory).expanduser()
        saved = self._saved()
        return write_probe(saved, path, HUB_FILES, card or self._card(path.name, figures))

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Read a probe from a hub or from a directory that `save_pretrained` wrote.

        Parameters
        ----------
        name : str or path
            "hf://org/repo[@revision]", or a directory.
        cache_dir : path, optional
            Where downloads are kept, by default the hub's own cache.
        local_files_only : bool
            Never open a connection.

        Returns
        -------
        LinearProbe
            Gives bit for bit what the saved one gave.

        Raises
        ------
        ProbeError
            If there is none, or it is damaged or of a newer format.
        DownloadError, OfflineError
            If it could not, or may not, be fetched.
        """
        text = os.fspath(name)
        path = Path(text).expanduser()
        if text.startswith("hf://"):
            path = fetch(text, *HUB_FILES, cache_dir=cache_dir, local_files_only=local_files_only)[1].parent
        return cls._restore(read_probe(path, HUB_FILES), path)

    def push_to_hub(
        self,
        repo: str,
        *,
        private: bool = False,
        message: str = "Upload a probe with sedembed",
        token: str | None = None,
        card: str | None = None,
        figures: Figures | None = None,
    ) -> str:
        """Publish the fitted probe on a Hugging Face hub, in one commit.

        Parameters
        ----------
        repo : str
            "org/repo"; made if it is not there.
        private : bool
            Whether a repository that is made is private.
        message : str
            Message of the commit.
        token : str, optional
            Access token; by default that of `hf auth login`.
        card, figures
            As for `save_pretrained`.

        Returns
        -------
        str
            "hf://org/repo@commit", which `from_pretrained` takes.

        Raises
        ------
        UploadError, OfflineError
            If publishing failed, or is not allowed.
        """
        with tempfile.TemporaryDirectory() as place:
            name = repo.split("@")[0].rpartition("/")[2]
            directory = self.save_pretrained(Path(place) / name, card=card, figures=figures)
            return push_folder(directory, repo, *HUB_FILES, "README.md", private=private, message=message, token=token)

    def _card(self, name: str, figures: Figures | None) -> str:
        shown = ", ".join(map(str, self.classes_[:20].tolist())) + (", …" if len(self.classes_) > 20 else "")
        model = self.model_ or {}
        source = (
            f"{model.get('name', 'a model')} {model.get('version', '')}".strip() if model else "vectors of its user"
        )
        body = (
            f"# {name}\n\nA linear classifier of {len(self.classes_)} classes on embeddings of {self.n_features_in_} "
            f"numbers by {source}, for the Python library sedembed.\n\nClasses: {shown}\n\n"
            '    import sedembed\n    probe = sedembed.LinearProbe.from_pretrained("hf://org/repo")\n'
        )
        return format_card(name, body, tags=("embeddings", "linear-probe"), figures=figures)
