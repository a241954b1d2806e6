"""Tests of settings."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from sedembed._training.settings import TrainConfig
from tests._training.train_helpers import clips, tiny, whole  # noqa: F401


class TestSettings:
    def test_defaults_are_those_of_the_authors(self) -> None:
        config = TrainConfig()
        assert (config.model, config.batch_size, config.steps, config.validate_every) == ("talnet", 250, 30_000, 1000)
        assert (config.learning_rate, config.plateau_factor, config.plateau_patience) == (1e-3, 0.8, 3)
        assert (config.spec_augment_bins, config.spec_augment_seconds, config.seed) == (16, 2.0, 15213)
        network = config.network_config(527)
        shipped = json.loads((files("sedembed") / "models" / "talnet_normalizer.json").read_text())
        assert network.mean == tuple(shipped["mu"])
        assert TrainConfig(model="weanet").network_config(527).std == 1.0

    def test_how_the_last_layers_start(self) -> None:
        for settings, attention in (
            ({"model": "weanet"}, "attention"),
            ({"network": {"pooling": "attention"}}, "fc_att"),
        ):
            plain = TrainConfig(**settings).build(3)
            even = TrainConfig(**settings, even_attention=True, output_bias=-4.0).build(3)
            output = "b8" if attention == "attention" else "fc_prob"
            assert (even.get_submodule(output).bias == -4.0).all()
            assert (plain.get_submodule(output).bias == 0.0).all()
            assert (even.get_submodule(attention).weight == 0.0).all()
            assert plain.get_submodule(attention).weight.abs().max() > 0.0
            assert torch.equal(plain.get_submodule(output).weight, even.get_submodule(output).weight)

    def test_a_file_holds_any_of_the_settings(self, tmp_path: Path) -> None:
        config = tiny(seconds=None, sustain={"stages": 2})
        (tmp_path / "a.json").write_text(json.dumps(config.as_table()))
        assert TrainConfig.read(tmp_path / "a.json") == config
        assert config.network_config(5).channels == (4, 8, 8, 8)
        with pytest.raises(ValueError, match="for the model 'weanet', not 'talnet'"):
            TrainConfig.read(tmp_path / "a.json", model="talnet")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ('{"stepz": 1}', "unknown key 'stepz'; known are model"),
            ("[1]", "expected a JSON object"),
            ("{", "is not valid JSON"),
            ('{"steps": 0}', "steps must be a whole number of at least 1, got 0"),
            ('{"steps": true}', "steps must be"),
            ('{"learning_rate": NaN}', "learning_rate must be a finite number above 0"),
            ('{"precision": "int8"}', "precision must be one of 'float32', 'bfloat16', 'float16', 'float64'"),
            ('{"seconds": 0}', "seconds must be a finite number above 0 or null"),
            ('{"plateau_factor": 1}', "plateau_factor must be a finite number between 0 and 1"),
            ('{"network": {"channels": 3}}', "network: unknown fields channels; known are mean, std, pooling"),
            ('{"network": {"pooling": "median"}}', "pooling must be one of"),
            ('{"network": {"pooling": 3}}', "network: pooling must be one of"),
            (
                '{"model": "weanet", "network": {"channels": [1.5, 2, 2, 2]}}',
                "network: channels must be a list of whole numbers",
            ),
            ('{"model": "weanet", "network": {"top_db": "much"}}', "network: top_db must be a finite number above 0"),
        ],
    )
    def test_what_is_wrong_is_said(self, tmp_path: Path, text: str, said: str) -> None:
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ValueError, match=said):
            TrainConfig.read(tmp_path / "a.json")
