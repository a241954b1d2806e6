"""The HEAR interface, held against the rules of the benchmark's validator, restated here, and that validator itself."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import sedembed.hear.talnet
import sedembed.hear.weanet
from sedembed.errors import InvalidArgumentError, InvalidWaveformError
from sedembed.hear.interface import HearModel

MODULES = {"talnet": sedembed.hear.talnet, "weanet": sedembed.hear.weanet}


@pytest.fixture(scope="module")
def models(untrained_model_dir: Path, small_weanet_dir: Path) -> dict[str, HearModel]:
    return {
        "talnet": sedembed.hear.talnet.load_model(str(untrained_model_dir)),
        "weanet": sedembed.hear.weanet.load_model(str(small_weanet_dir)),
    }


def noise(sounds: int, seconds: float) -> torch.Tensor:
    return torch.rand((sounds, int(seconds * 16_000)), generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("name", MODULES)
class TestRulesOfTheBenchmark:
    def test_attributes(self, name: str, models: dict[str, HearModel]):
        model = models[name]
        assert isinstance(model, torch.nn.Module)
        assert model.sample_rate in (16_000, 22_050, 44_100, 48_000)
        assert type(model.scene_embedding_size) is type(model.timestamp_embedding_size) is int

    @pytest.mark.parametrize(("sounds", "seconds"), [(16, 2.0), (1, 64.0)])
    def test_timestamp_embeddings(self, name: str, models: dict[str, HearModel], sounds: int, seconds: float):
        model = models[name]
        embeddings, timestamps = MODULES[name].get_timestamp_embeddings(noise(sounds, seconds), model)
        assert embeddings.dtype == torch.float32
        assert embeddings.shape == (sounds, timestamps.shape[1], model.timestamp_embedding_size)
        assert timestamps.shape == embeddings.shape[:2]
        steps = torch.diff(timestamps)
        assert torch.all(torch.abs(steps - steps.float().mean()) < 1e-3)
        assert steps.mean() == pytest.approx(1000 / model.embedder.frame_rate)
        assert timestamps[0, 0] == pytest.approx({"talnet": 37.5, "weanet": 475.0}[name])  # centres

    def test_scene_embeddings(self, name: str, models: dict[str, HearModel]):
        model, sounds = models[name], noise(8, 3.74)
        embeddings = MODULES[name].get_scene_embeddings(sounds, model)
        assert embeddings.dtype == torch.float32
        np.testing.assert_array_equal(embeddings.numpy(), model.embedder.embed(sounds.numpy()))

    def test_the_validator_itself(self, name: str, models: dict[str, HearModel], monkeypatch: pytest.MonkeyPatch):
        if importlib.util.find_spec("hearvalidator") is None:
            pytest.skip("needs the validator of the benchmark: pip install --no-deps hearvalidator")
        tensorflow = ModuleType("tensorflow")  # the validator asks it only whether the model is one of its own
        tensorflow.Module = type("Module", (), {})  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "tensorflow", tensorflow)
        from hearvalidator.validate import ValidateModel

        path = models[name].embedder.runner.record.source
        assert path == "local"
        module = types.SimpleNamespace(**vars(MODULES[name]))
        module.load_model = lambda *_: models[name]
        validator = ValidateModel(f"sedembed.hear.{name}", "", device="cpu")
        monkeypatch.setattr(validator, "import_model", lambda: setattr(validator, "module", module))
        with pytest.warns(UserWarning, match="interval between timestamps"):  # advice: a hop of 50 ms at most
            validator()


@pytest.mark.parametrize(("name", "hop"), [("talnet", 50.0), ("weanet", 40.0)])
def test_a_hop_as_the_benchmark_advises(name: str, hop: float, models: dict[str, HearModel], tmp_path: Path):
    model, coarse = HearModel.__new__(HearModel), models[name]
    model.__dict__.update(coarse.__dict__)
    model.hop = hop
    sounds = noise(2, 1.5)
    embeddings, timestamps = MODULES[name].get_timestamp_embeddings(sounds, model)
    np.testing.assert_allclose(torch.diff(timestamps), hop, atol=1e-3)
    step = round(1000 / coarse.embedder.frame_rate / hop)
    expected, times = MODULES[name].get_timestamp_embeddings(sounds, coarse)
    np.testing.assert_allclose(embeddings[:, ::step], expected, atol=1e-5)
    np.testing.assert_allclose(timestamps[:, ::step], times)


@pytest.mark.parametrize(("name", "size", "hop"), [("talnet", 1024, None), ("weanet", 2048, 160.0)])
def test_the_packaged_weights_are_the_default(name: str, size: int, hop: float | None):
    model = MODULES[name].load_model(hop=hop)
    assert (model.embedder.record.name, model.scene_embedding_size, model.hop) == (name, size, hop)


def test_moving_to_a_device_makes_the_network_ready_there(models: dict[str, HearModel]):
    model = models["weanet"]
    before = model.embedder
    assert model.to("cpu").embedder is before
    with pytest.raises(InvalidArgumentError, match="'meta'"):  # a device that nothing can be computed on
        model.to("meta")
    model.register_buffer("_place", torch.empty(0), persistent=False)


def test_sounds_that_break_the_rules_are_refused(models: dict[str, HearModel]):
    with pytest.raises(InvalidWaveformError, match="NaN"):
        sedembed.hear.talnet.get_timestamp_embeddings(torch.full((1, 16_000), torch.nan), models["talnet"])
