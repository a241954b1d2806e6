"""Tests of average."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from sedembed._training.distillation import average
from sedembed.errors import InvalidArgumentError
from sedembed.models.talnet import TALNet
from sedembed.models.weanet import WEANet
from sedembed.models.weights import load_network, resolve, save_pretrained


@pytest.fixture
def folders(tmp_path):
    for number in range(3):
        torch.manual_seed(number)
        network = WEANet(WEANet.default_config(7, ((-40.0,), (20.0,))))
        for buffer in network.buffers():
            if buffer.is_floating_point():
                buffer.add_(number)
        network.mean.fill_(-40.0)
        network.std.fill_(20.0)
        save_pretrained(network, tmp_path / str(number))
    return [tmp_path / str(number) for number in range(3)]


def test_the_mean_of_three_models(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["average", *map(str, folders), "--out", str(tmp_path / "mean")])
    average.main()
    files = [load_file(folder / "model.safetensors") for folder in folders]
    found = load_file(tmp_path / "mean" / "model.safetensors")
    assert found.keys() == files[0].keys()
    assert any("running_mean" in key for key in found)
    for key, value in found.items():
        if np.issubdtype(value.dtype, np.floating):
            expected = np.mean([file[key].astype(np.float64) for file in files], axis=0)
            np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-6, err_msg=key)
    assert load_network(resolve(tmp_path / "mean")).config == load_network(resolve(folders[0])).config


def test_what_cannot_be_averaged(folders, tmp_path):
    with pytest.raises(InvalidArgumentError, match="two or more models to average, got 1"):
        average.average_models(folders[:1])
    bins = (tuple([-40.0] * 64), tuple([20.0] * 64))
    save_pretrained(TALNet(TALNet.default_config(7, bins)), tmp_path / "other")
    with pytest.raises(InvalidArgumentError, match=r"of one configuration, got another in .*other"):
        average.average_models([folders[0], tmp_path / "other"])
