"""The model that a store was made with, and no other."""

from __future__ import annotations

from sedembed.embedder import Embedder
from sedembed.engine.provenance import FRONT_END_VERSION, sha256_of_model
from sedembed.engine.windows import WINDOW_SECONDS
from sedembed.errors import StoreError
from sedembed.loading import load_model
from sedembed.models.registry import list_models
from sedembed.store.store import EmbeddingStore

__all__ = ["load_store_model"]

# Versions that are made from the sha256, where the weights are not registered.
_DERIVED = ("local-", "hub-")


def load_store_model(
    store: EmbeddingStore, model: str | None = None, *, device: str | None = None, local_files_only: bool = False
) -> Embedder:
    """Load the model whose vectors a store holds, in the same precision, by the same engine where vectors depend on it.

    Parameters
    ----------
    store : EmbeddingStore
        Its `run.json` names the model.
    model : str, optional
        Where the model is, if the store was made with one from a path.
    device : str, optional
        Where it is to run.
    local_files_only : bool
        Never open a connection.

    Returns
    -------
    Embedder
        Gives vectors that may be compared with those of the store.

    Raises
    ------
    StoreError
        If the model that is here is another one, or the store does not say where its model is.
    ModelNotFoundError, WeightsError, DownloadError
        As for `load_model`.
    """
    settings = store.run["settings"]
    for key, here in (("front_end_version", FRONT_END_VERSION), ("window_seconds", WINDOW_SECONDS)):
        if settings.get(key, here) != here:
            wrote = store.run.get("versions", {}).get("sedembed", "that wrote it")
            raise StoreError(
                f"{store.directory} was made with {key} {settings[key]}, and this sedembed has {here}, so vectors "
                f"would not be comparable; use sedembed {wrote}, or embed the folder again"
            )
    loaded = load_model(
        model or _source(store),
        device,
        settings.get("precision", "float32"),
        engine=settings.get("engine", "torch"),
        local_files_only=local_files_only,
    )
    _refuse_other(store, loaded)
    return loaded


def _source(store: EmbeddingStore) -> str:
    """Return what `load_model` takes for the model of a store."""
    model = store.run.get("model") or {}
    name, source, revision = (str(model.get(key) or "") for key in ("name", "source", "revision"))
    if name in list_models() and source != "local":
        return name
    if source.startswith("hf://"):
        return f"{source}@{revision}" if revision else source
    named = f"with a model from a directory or file called {name!r}" if name else "with a model that it does not name"
    raise StoreError(f"{store.directory} was made {named}; say where that is: --model DIRECTORY")


def _refuse_other(store: EmbeddingStore, model: Embedder) -> None:
    settings = store.run["settings"]
    version, sha256 = str(settings.get("model_version")), str(settings.get("model_sha256"))
    here, here_sha256 = model.record.version, sha256_of_model(model.runner)
    same_version = version == here or version.startswith(_DERIVED) or here.startswith(_DERIVED)
    if same_version and sha256 == here_sha256 and model.embedding_size == store.embedding_size:
        return
    name = (store.run.get("model") or {}).get("name")
    raise StoreError(
        f"{store.directory} holds vectors of the model {name!r}, version {version} (sha256 {sha256[:12]}), and "
        f"{model.record.name!r} here is version {here} (sha256 {here_sha256[:12]}), so vectors would not be "
        "comparable; give the model of the store with --model, or embed the folder again with this one"
    )
