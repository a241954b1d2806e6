"""Wrong arguments to every public function end in an error of this library, never in one of another."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import sedembed
from sedembed import LinearProbe
from sedembed.embedder import Embedder
from sedembed.errors import SedembedError

VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    7,
    1.5,
    10**30,
    float("nan"),
    float("inf"),
    1j,
    "",
    "x",
    "~",
    "5",
    "a\0b",
    "\udce9",
    b"x",
    [],
    [1],
    ["x"],
    [[1], [1, 2]],
    (),
    {},
    {"x": 1},
    set(),
    object(),
    int,
    len,
    np.float64("nan"),
    np.array([]),
    np.array([1.0, np.nan]),
    np.array(["x"]),
    np.zeros((2, 2, 2)),
    np.datetime64("NaT", "D"),
    slice(1),
]


@pytest.fixture(scope="module")
def model(small_weanet_dir: Path) -> Embedder:
    return sedembed.load_model(small_weanet_dir, device="cpu")


@pytest.fixture(scope="module")
def doors(model: Embedder, small_weanet_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Functions of one argument each: every parameter of every public function, the others being right."""
    work = tmp_path_factory.mktemp("doors")
    (work / "in").mkdir()
    for number in range(4):
        wave = np.random.default_rng(number).normal(0, 0.1, 16_000)
        soundfile.write(work / "in" / f"{number}.wav", wave, 16_000)
    store = sedembed.embed_folder(work / "in", work / "store", model, frames=True, progress=False)
    clip = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    x, y = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32), ["a", "b"] * 6
    probe = LinearProbe(1.0, progress=False).fit(x, y)
    network = sedembed.load_network(small_weanet_dir)

    def fit(X: Any = x, y: Any = y, **options: Any) -> LinearProbe:
        return LinearProbe(options.pop("C", 1.0), progress=False).fit(X, y, **options)

    def folder(**options: Any) -> object:
        given = {"folder": work / "in", "out": work / "store", "model": model, "frames": True, "progress": False}
        return sedembed.embed_folder(**{**given, **options})

    doors: dict[str, Callable[[Any], Any]] = {
        "load_model(name)": lambda v: sedembed.load_model(v, "cpu", local_files_only=True),
        "load_model(device)": lambda v: sedembed.load_model(small_weanet_dir, v),
        "load_model(precision)": lambda v: sedembed.load_model(small_weanet_dir, "cpu", v),
        "load_model(cache_dir)": lambda v: sedembed.load_model("hf://a/b", "cpu", cache_dir=v, local_files_only=True),
        "load_network(name)": sedembed.load_network,
        "describe_model(name)": sedembed.describe_model,
        "register_model(backbone)": sedembed.register_model,
        "save_pretrained(network)": lambda v: sedembed.save_pretrained(v, work / "saved"),
        "save_pretrained(card)": lambda v: sedembed.save_pretrained(network, work / "saved", card=v),
        "save_pretrained(dtype)": lambda v: sedembed.save_pretrained(network, work / "saved", dtype=v),
        "Embedder(network)": lambda v: Embedder(v, device="cpu"),
        "Embedder(record)": lambda v: Embedder(network, v, device="cpu"),
        "embed(x)": model.embed,
        "embed(sample_rate)": lambda v: model.embed(clip, v),
        "embed(model)": lambda v: sedembed.embed(clip, model=v),
        "tag(x)": model.tag,
        "embed_frames(x)": model.embed_frames,
        "stream(blocks)": lambda v: list(model.stream(v, 16_000)),
        "stream(sample_rate)": lambda v: list(model.stream([clip], v)),
        "detect_stream(blocks)": lambda v: list(model.detect_stream(v, 16_000)),
        "detect(x)": model.detect,
        **{
            f"detect({name})": lambda v, name=name: model.detect(clip, **{name: v})
            for name in ("threshold", "labels", "median", "min_duration", "max_gap")
        },
        **{
            f"embed_folder({name})": lambda v, name=name: folder(**{name: v})
            for name in (
                "folder",
                "out",
                "model",
                "frames",
                "workers",
                "batch_size",
                "progress",
                "precision",
                "timeout",
            )
        },
        "open_store(out)": sedembed.open_store,
        "store.search(query)": store.search,
        "store.search(k)": lambda v: store.search(0, v),
        "store.frames(path)": store.frames,
        "store.export(path)": store.export,
        "store[]": lambda v: store[v],
        "store.to_pandas(vectors)": store.to_pandas,
        "probe.fit(X)": lambda v: fit(v),
        "probe.fit(y)": lambda v: fit(y=v),
        **{
            f"probe.fit({name})": lambda v, name=name: fit(C="auto", **{name: v})
            for name in ("sample_weight", "validation", "groups", "folds", "model")
        },
        **{
            f"LinearProbe({name})": lambda v, name=name: LinearProbe(**{"C": "auto", name: v}).fit(x, y)
            for name in LinearProbe().get_params()
        },
        "probe.predict(X)": probe.predict,
        "probe.predict_proba(X)": probe.predict_proba,
        "probe.decision_function(X)": probe.decision_function,
        "probe.save(path)": probe.save,
        "LinearProbe.load(path)": LinearProbe.load,
        "probe.check_model(vectors)": probe.check_model,
    }
    return doors


# Half of a wrong argument's harm is to be taken in silence: these must not be.
REFUSED: list[tuple[str, list[Any]]] = [
    ("describe_model(name)", [None, True, 7, "x", []]),
    ("load_model(device)", [True, 7, "", "x", []]),
    ("embed_folder(frames)", [None, 0, 7, "x", []]),
    ("embed_folder(progress)", [0, 7, "x", []]),
    ("embed_folder(timeout)", [None, True, -1, 0, "5", float("nan")]),
    ("embed_folder(workers)", [True, -1, 0, 1.5, "5"]),
    ("store.search(k)", [None, True, -1, 0, 1.5, "5"]),
    ("store.search(query)", [None, True, {}, float("nan")]),
    ("store.to_pandas(vectors)", [None, 0, "x"]),
    ("open_store(out)", [None, "", 7, "a\0b", b"x"]),
    ("probe.fit(model)", [True, "x", 7]),
    ("probe.fit(sample_weight)", [np.float64("nan"), np.array([1.0, np.nan]), "x"]),
    ("probe.fit(groups)", [7, "x", [1], np.array([])]),
    ("LinearProbe(progress)", [0, "x", []]),
    ("embed(sample_rate)", [True, 0, "5", float("nan"), 10**30]),
    ("detect(labels)", [7, [], ["x"], [1]]),
]


def test_every_door(doors: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SEDEMBED_OFFLINE", "1")
    counts, wrong = Counter[str](), []
    for door, call in doors.items():
        for value in VALUES:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    call(value)
                except SedembedError as error:
                    counts["refused"] += 1
                    if len(str(error)) < 15 or "Traceback" in str(error):
                        wrong.append(f"{door} of {value!r}: {error}")
                except BaseException as error:
                    wrong.append(f"{door} of {value!r}: {type(error).__name__}: {str(error)[:100]}")
                else:
                    counts["taken"] += 1
    assert wrong == [], "\n" + "\n".join(wrong)
    assert counts["refused"] > 1500


@pytest.mark.parametrize(("door", "values"), REFUSED, ids=[door for door, _ in REFUSED])
def test_not_taken_in_silence(doors: dict[str, Any], door: str, values: list[Any]):
    for value in values:
        with pytest.raises(SedembedError):
            doors[door](value)
