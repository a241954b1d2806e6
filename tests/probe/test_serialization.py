"""Tests of serialization."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone

from sedembed import LinearProbe
from sedembed.errors import ProbeError, SedembedError
from tests.probe.probe_helpers import blobs, multilabel


class TestFiles:
    @pytest.mark.parametrize(
        "names", [np.array([3, 5, 9]), np.array(["a", "é;x", "ü"]), np.array(["a", "b", "c"], object)]
    )
    def test_round_trip(self, tmp_path, names):
        x, y = blobs(60, 5, 3)
        probe = LinearProbe(class_weight={names[0]: 2.0}, Cs=[1.0, 2.0], progress=False).fit(x, names[y])
        again = LinearProbe.load(probe.save(tmp_path / "probe"))
        assert np.array_equal(again.predict_proba(x), probe.predict_proba(x))
        assert again.predict(x).tolist() == probe.predict(x).tolist()
        assert again.scores_ == probe.scores_
        assert again.C_ == probe.C_
        assert again.get_params()["Cs"] == [1.0, 2.0]
        assert clone(again).get_params()["class_weight"] == {names[0]: 2.0}
        assert sorted(p.name for p in (tmp_path / "probe").iterdir()) == ["probe.json", "probe.safetensors"]

    def test_several_labels_and_replacement(self, tmp_path):
        x, y = multilabel(60, 5, 3)
        LinearProbe(C=1.0, progress=False).fit(*blobs(60, 5, 4)).save(tmp_path / "probe")
        probe = LinearProbe(C=1.0, progress=False).fit(x, y)
        probe.save(tmp_path / "probe")
        assert np.array_equal(LinearProbe.load(tmp_path / "probe").predict(x), probe.predict(x))
        assert [p.name for p in tmp_path.iterdir()] == ["probe"]

    def test_a_probe_is_replaced_only_by_a_whole_one(self, tmp_path, monkeypatch):
        x, y = blobs(60, 5, 3)
        probe = LinearProbe(C=1.0, progress=False).fit(x, y)
        probe.save(tmp_path / "probe")
        before = (tmp_path / "probe" / "probe.json").read_bytes()

        def full(self, *_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_text", full)
        with pytest.raises(ProbeError, match="No space left"):
            probe.save(tmp_path / "probe")
        assert (tmp_path / "probe" / "probe.json").read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["probe"]

    def test_damage_is_named(self, tmp_path):
        x, y = blobs(60, 5, 3)
        probe = LinearProbe(C=1.0, progress=False).fit(x, y)
        with pytest.raises(ProbeError, match=r"no probe\.json"):
            LinearProbe.load(tmp_path)
        path = probe.save(tmp_path / "probe")
        data = (path / "probe.safetensors").read_bytes()
        (path / "probe.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(ProbeError, match="does not belong"):
            LinearProbe.load(path)
        (path / "probe.safetensors").write_bytes(data)
        description = json.loads((path / "probe.json").read_text())
        for change, message in (
            ({"format_version": 2}, "format 2"),
            ({"classes": [1]}, r"coef has the shape \(3, 5\), expected \(1, 5\)"),
            ({"parameters": {}}, "damaged"),
            ({"C": None}, "damaged"),
        ):
            (path / "probe.json").write_text(json.dumps({**description, **change}))
            with pytest.raises(ProbeError, match=message):
                LinearProbe.load(path)
        (path / "probe.json").write_text("{")
        with pytest.raises(SedembedError, match="damaged"):
            LinearProbe.load(path)

    def test_other_things_are_not_overwritten(self, tmp_path):
        x, y = blobs(60, 5, 3)
        probe = LinearProbe(C=1.0, progress=False).fit(x, y)
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(ProbeError, match="is not a probe"):
            probe.save(tmp_path)
        with pytest.raises(ProbeError, match="is not a probe"):
            probe.save(tmp_path / "notes.txt")

    def test_classes_that_json_cannot_hold(self, tmp_path):
        x, y = blobs(60, 5, 2)
        probe = LinearProbe(C=1.0, progress=False).fit(x, np.array(["2020-01-01", "2020-01-02"], "datetime64[D]")[y])
        with pytest.raises(ProbeError, match="numbers or strings"):
            probe.save(tmp_path / "probe")


def test_every_parameter_is_saved(tmp_path: Path):
    """All of `get_params` but what belongs to a machine or a fit, so that a new parameter needs no line here."""
    parameters = json.loads((saved_probe(tmp_path) / "probe.json").read_text())["parameters"]
    assert parameters.keys() == LinearProbe().get_params().keys() - {"cv", "device", "progress"}


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": {"normalize": "whiten"}},
        {"parameters": {"sharpness": 3}},
        {"parameters": {"C": -1}},
        {"parameters": 3},
        {"multilabel": "no"},
        {"passes": None},
        {"model": [1]},
        {"C": "many"},
        {"scores": [[1]]},
        {"classes": {"a": 1}},
    ],
)
def test_values_of_another_kind_are_damage(tmp_path: Path, change: dict):
    path = saved_probe(tmp_path)
    description = json.loads((path / "probe.json").read_text())
    for key, value in change.items():
        description[key] = {**description[key], **value} if isinstance(value, dict) and key == "parameters" else value
    (path / "probe.json").write_text(json.dumps(description))
    with pytest.raises(ProbeError, match="is damaged"):
        LinearProbe.load(path)


@pytest.mark.parametrize("text", ["", "[" * 100_000, "null", '{"format_version": 1}'])
def test_text_that_is_no_probe(tmp_path: Path, text: str):
    path = saved_probe(tmp_path)
    (path / "probe.json").write_text(text)
    with pytest.raises(ProbeError, match="is damaged"):
        LinearProbe.load(path)


def saved_probe(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    return LinearProbe(1.0).fit(rng.normal(size=(30, 4)).astype(np.float32), np.arange(30) % 3).save(folder / "probe")


@pytest.mark.parametrize("kind", ["int8", "int32", "uint16", "float32", "float64", "bool", "U4", "object"])
def test_labels_keep_their_type(tmp_path: Path, kind: str):
    rng = np.random.default_rng(0)
    names = np.array(["cat", "bird"], kind) if kind in ("U4", "object") else np.array([0, 1], kind)
    x, y = rng.normal(size=(30, 4)).astype(np.float32), names[np.arange(30) % 2]
    probe = LinearProbe(1.0).fit(x, y)
    again = LinearProbe.load(probe.save(tmp_path / "probe"))
    assert again.classes_.dtype == probe.classes_.dtype == names.dtype
    assert again.predict(x).dtype == y.dtype
    assert [type(name) for name in again.classes_.tolist()] == [type(name) for name in y[:2].tolist()]


def test_labels_of_earlier_versions(tmp_path: Path):
    path = saved_probe(tmp_path)
    description = json.loads((path / "probe.json").read_text())
    assert description["classes_dtype"] == "int64"
    del description["sha256"]
    (path / "probe.json").write_text(json.dumps({**description, "classes_dtype": "i"}))
    assert LinearProbe.load(path).classes_.dtype == np.int64
    for wrong in ("datetime64[s]", "text", 3, "bool", "U"):
        (path / "probe.json").write_text(json.dumps({**description, "classes_dtype": wrong}))
        with pytest.raises(ProbeError, match="damaged"):
            LinearProbe.load(path)
