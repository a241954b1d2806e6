"""What a caller has set for PyTorch as a whole changes no vector."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sedembed._utils.isolation import isolated
from sedembed.embedder import Embedder
from sedembed.loading import load_model
from sedembed.models.weights import load_network


@contextmanager
def setting(change: Callable[[Any], None], value: Any, before: Any) -> Iterator[None]:
    change(value)
    try:
        yield
    finally:
        change(before)


STATES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "dtype": lambda: setting(torch.set_default_dtype, torch.float64, torch.float32),
    "half": lambda: setting(torch.set_default_dtype, torch.float16, torch.float32),
    "device": lambda: torch.device("meta"),
    "default-device": lambda: setting(torch.set_default_device, "meta", None),
    "inference": torch.inference_mode,
    "no-grad": torch.no_grad,
    "deterministic": lambda: setting(torch.use_deterministic_algorithms, True, False),
    "products": lambda: setting(torch.set_float32_matmul_precision, "medium", "highest"),
    "numpy": lambda: np.errstate(all="raise"),
}


def sound() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(0, 0.1, 24_000) * np.linspace(0, 1, 24_000)).astype(np.float32)


def results(model: Embedder) -> tuple[np.ndarray, ...]:
    clips = [sound(), sound()[:20_000]]
    return model.embed(clips), model.tag(clips), *model.embed_frames(sound())


@pytest.fixture(scope="module", params=["untrained_model_dir", "small_weanet_dir"])
def directory(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def expected(directory: Path) -> tuple[np.ndarray, ...]:
    return results(load_model(directory, device="cpu"))


@pytest.mark.parametrize("state", STATES)
def test_the_same_vectors(directory: Path, expected: tuple[np.ndarray, ...], state: str):
    before = load_model(directory, device="cpu")
    with STATES[state]():
        inside = load_model(directory, device="cpu")
        for found, wanted in zip(results(before), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
    for found, wanted in zip(results(inside), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_states_come_back():
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta"), STATES["products"]():
        with isolated():
            assert not torch.is_autocast_enabled("cpu")
            assert torch.empty(0).device.type == "cpu"
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.is_autocast_enabled("cpu")
        assert torch.empty(0).device.type == "meta"
        assert torch.get_float32_matmul_precision() == "medium"


def test_threads_do_not_undo_each_other():
    def look(_: int) -> str:
        with isolated():
            return torch.get_float32_matmul_precision()

    with STATES["products"](), ThreadPoolExecutor(8) as pool:
        assert set(pool.map(look, range(400))) == {"highest"}
        assert torch.get_float32_matmul_precision() == "medium"


def test_a_network_loaded_in_inference_mode_can_be_trained(directory: Path):
    with torch.inference_mode():
        network = load_network(directory)
    network.requires_grad_(True)
    network(torch.randn(1, 128, network.n_mels)).frames.sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in network.parameters())


def test_imported_under_another_default_device(untrained_model_dir: Path):
    """Constants are made when a module is imported, and the window when it is first used."""
    code = (
        "import sys, numpy, torch; torch.set_default_device('meta'); torch.set_default_dtype(torch.float64);"
        "import sedembed;"
        "print(numpy.isfinite(sedembed.load_model(sys.argv[1], 'cpu').embed(numpy.ones(16000, 'f4'))).all())"
    )
    run = subprocess.run([sys.executable, "-c", code, str(untrained_model_dir)], capture_output=True, text=True)
    assert (run.stdout.strip(), run.returncode) == ("True", 0), run.stderr
