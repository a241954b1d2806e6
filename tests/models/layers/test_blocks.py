"""Tests of blocks."""

from __future__ import annotations

import pytest
import torch

from sedembed.models.layers.blocks import ConvBlock, blank_beyond, fold_batchnorm, run_blocks, run_in_pieces


@pytest.fixture(params=[None, (2, 2), (4, 4), (1, 2), (3, 2)])
def blocks(request: pytest.FixtureRequest) -> torch.nn.Sequential:
    torch.manual_seed(0)
    made = torch.nn.Sequential(ConvBlock(1, 4), ConvBlock(4, 5, request.param))
    for block in made:
        block.bn.running_var.uniform_(0.5, 2.0)
        block.bn.running_mean.normal_()
    return made.double().eval().requires_grad_(False)


@pytest.mark.parametrize("rows", [1, 4, 10, 26, 100])
@pytest.mark.parametrize("lengths", [None, [25, 25, 25], [25, 12, 4]])
def test_pieces_are_the_whole(blocks: torch.nn.Sequential, rows: int, lengths: list[int] | None):
    x = torch.randn(3, 1, 25, 8, dtype=torch.float64)
    valid = None if lengths is None else torch.tensor(lengths)
    if valid is not None:
        x = blank_beyond(x, valid)
    expected, expected_lengths = run_blocks(blocks, x, valid)
    found, found_lengths = run_in_pieces(list(blocks), x, valid, rows)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert (found_lengths is None) == (lengths is None)
    if found_lengths is not None and expected_lengths is not None:
        assert torch.equal(found_lengths, expected_lengths)


@pytest.mark.parametrize("lengths", [[25, 25, 25], [25, 12, 4]])
def test_in_inference_mode_padding_is_the_same(blocks: torch.nn.Sequential, lengths: list[int]):
    x, valid = torch.randn(3, 1, 25, 8, dtype=torch.float64), torch.tensor(lengths)
    expected, _ = run_blocks(blocks, x, valid)
    with torch.inference_mode():
        given = x.clone()
        found, _ = run_blocks(blocks, given, valid)
        pieces, _ = run_in_pieces(list(blocks), given, valid, 10)
    assert torch.equal(found, expected)
    assert torch.equal(given, x)
    # A piece may begin beyond the end of an item.
    torch.testing.assert_close(pieces, run_in_pieces(list(blocks), x, valid, 10)[0], rtol=0, atol=0)


def test_fewer_rows_than_the_pool_are_refused():
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        run_in_pieces([ConvBlock(1, 4), ConvBlock(4, 5, (2, 2))], torch.zeros(1, 1, 1, 8), None, 10)


def test_folded_blocks_are_the_same_function(blocks: torch.nn.Sequential):
    x = torch.randn(2, 1, 13, 9, dtype=torch.float64)
    torch.testing.assert_close(fold_batchnorm(blocks)(x), blocks(x), rtol=0, atol=1e-12)
