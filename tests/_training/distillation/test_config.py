"""Tests of config."""

from __future__ import annotations

import json

import pytest

from sedembed._training.distillation.config import DistillConfig


def test_unknown_settings_are_refused(tmp_path):
    with pytest.raises(ValueError, match="strongly"):
        DistillConfig(rarity="strongly")
    with pytest.raises(ValueError, match="cosin"):
        DistillConfig(schedule="cosin")
    with pytest.raises(ValueError, match="weenet"):
        DistillConfig(model="weenet")
    (tmp_path / "a.json").write_text(json.dumps({"stepz": 1}))
    with pytest.raises(ValueError, match="stepz"):
        DistillConfig.read(tmp_path / "a.json")
