"""Both forms of the bidirectional GRU give what `nn.GRU` gives, with padding as packed sequences have it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from sedembed.models.layers import packed
from sedembed.models.layers.gru import FrozenGRU, TwoWayGRU

Run = Callable[[nn.GRU, torch.Tensor, "torch.Tensor | None"], torch.Tensor]
FORMS: dict[str, Run] = {
    "together": lambda gru, x, lengths: FrozenGRU(gru)(x, lengths),
    "two one-way ones": lambda gru, x, lengths: TwoWayGRU(gru)(x, lengths),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("lengths", [None, [7, 7, 7], [7, 1, 4]])
@torch.no_grad()
def test_equals_the_layer_of_pytorch(form: str, lengths: list[int] | None):
    generator = torch.Generator().manual_seed(0)
    gru = nn.GRU(5, 6, batch_first=True, bidirectional=True).double()
    for parameter in gru.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(3, 7, 5, generator=generator, dtype=torch.float64)
    output = FORMS[form](gru, x, None if lengths is None else torch.tensor(lengths))
    for item, length in enumerate(lengths or [7] * 3):
        expected = gru(x[item : item + 1, :length])[0][0]
        torch.testing.assert_close(output[item, :length], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("lengths", [None, [9, 1, 5], [9]])
@torch.no_grad()
def test_in_float32_with_and_without_packed_weights(
    packs: bool, lengths: list[int] | None, monkeypatch: pytest.MonkeyPatch
):
    if not packs:
        monkeypatch.setattr(packed, "_pack", lambda weight: None)
    torch.manual_seed(0)
    gru = nn.GRU(20, 32, batch_first=True, bidirectional=True)
    x = torch.randn(len(lengths or [0, 0]), 9, 20)
    output = FrozenGRU(gru)(x, None if lengths is None else torch.tensor(lengths))
    for item, length in enumerate(lengths or [9, 9]):
        torch.testing.assert_close(output[item, :length], gru(x[item : item + 1, :length])[0][0], rtol=0, atol=1e-6)
