"""The authors' checkpoint in the layouts it was saved in, and hostile files in its place."""

from __future__ import annotations

import json
import logging
import pickle
import resource
from collections import OrderedDict
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from sedembed.cli.main import main
from sedembed.errors import ModelNotFoundError, WeightsError
from sedembed.models import convert
from sedembed.models.convert import convert_checkpoint, read_normalizer
from sedembed.models.talnet import TALNet, TALNetConfig
from sedembed.models.weights import load_network, resolve

MEAN = np.linspace(-9.0, -7.0, 64)
STD = np.linspace(4.0, 6.0, 64)
ADDRESS = 139716164221072  # Python 2 named parameters by their address in memory

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = TALNet(TALNetConfig(mean=(0.0,) * 64, std=(1.0,) * 64))
    return {key: tensor for key, tensor in network.state_dict().items() if "num_batches_tracked" not in key}


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 wrote in protocol 2, and says that every tensor was on a GPU."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)

    def save_text(self, text: str) -> None:
        text = {"cpu": "cuda:0"}.get(text, text)
        self.write(b"U" + bytes([len(text)]) + text.encode())

    def save_whole(self, number: int) -> None:
        if 2**31 <= number < 2**63:
            self.write(b"I%d\n" % number)
        else:
            self.save_long(number)

    def save_storage_type(self, kind: type) -> None:
        if kind is torch.FloatStorage:
            self.write(b"ctorch.cuda\nFloatStorage\n")
        else:
            self.save_global(kind)

    dispatch[str] = save_text
    dispatch[int] = save_whole
    dispatch[type] = save_storage_type
    dispatch[type(torch.FloatStorage)] = save_storage_type


def dump_python2(value: object, file: Any, protocol: int) -> None:
    Python2Pickler(file, protocol).dump(value)


PYTHON2 = SimpleNamespace(Pickler=Python2Pickler, dump=dump_python2, __name__="cPickle")


def optimizer(key: int = 0) -> dict[str, object]:
    group = {"lr": 1e-3, "betas": (0.9, 0.999), "amsgrad": False, "params": [key]}
    return {"state": {key: {"step": 3, "exp_avg": torch.zeros(4)}}, "param_groups": [group]}


def assert_converted(directory: Path, state: State, pooling: str = "linear") -> None:
    resolved = resolve(directory)
    assert resolved.config.pooling == pooling
    loaded = load_network(resolved).state_dict()
    for key, tensor in state.items():
        assert torch.equal(loaded[key], tensor), key


class TestLayouts:
    def test_modern_file(self, state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        torch.save({"model": state, "optimizer": optimizer()}, tmp_path / "TALNet.pt")
        with caplog.at_level(logging.INFO, logger="sedembed"):
            assert convert_checkpoint(tmp_path / "TALNet.pt", tmp_path / "out") == tmp_path / "out"
        assert "AudioSet" in caplog.text
        assert_converted(tmp_path / "out", state)
        shipped = json.loads(files("sedembed.models").joinpath("talnet_normalizer.json").read_text())
        config = resolve(tmp_path / "out").config
        assert (list(config.mean), list(config.std)) == (shipped["mu"], shipped["sigma"])
        card = (tmp_path / "out" / "README.md").read_text()
        assert "TALNet.pt" in card
        assert "MIT" in card

    def test_as_the_authors_saved_it(self, state: State, tmp_path: Path) -> None:
        """PyTorch 0.4 under Python 2 on a GPU: text strings, text integers, no counters, the old container."""
        file = tmp_path / "TALNet.pt"
        ordered = OrderedDict(state)
        ordered._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
        checkpoint = {"model": ordered, "optimizer": optimizer(ADDRESS)}
        torch.save(checkpoint, file, pickle_module=PYTHON2, _use_new_zipfile_serialization=False)
        for mark in (b"I%d\n" % ADDRESS, b"ctorch.cuda\nFloatStorage", b"U\x06cuda:0", b"U\x11conv1.conv.weight"):
            assert mark in file.read_bytes()
        with pytest.raises(pickle.UnpicklingError, match="operand 73"):  # why the converter rewrites integers
            torch.load(file, weights_only=True, map_location="cpu")
        convert_checkpoint(file, tmp_path / "out")
        assert_converted(tmp_path / "out", state)

    def test_port_with_every_convolution_twice(self, state: State, tmp_path: Path) -> None:
        twice = {f"module.{key}": tensor for key, tensor in state.items()}
        for key, tensor in state.items():
            if key.startswith("conv"):
                layer, rest = key.split(".", 1)
                twice[f"module.conv.{int(layer[4:]) - 1}.{rest}"] = tensor
                twice[f"module.{layer}.bn.num_batches_tracked"] = torch.tensor(30_000)
        file = tmp_path / "port.pth"
        torch.save(twice, file, _use_new_zipfile_serialization=False)
        convert_checkpoint(file, tmp_path / "out")
        assert_converted(tmp_path / "out", state)
        twice["module.conv.3.conv.bias"] = twice["module.conv.3.conv.bias"] + 1
        torch.save(twice, file)
        with pytest.raises(WeightsError, match=r"holds conv4\.conv\.bias twice with different values"):
            convert_checkpoint(file, tmp_path / "other")
        assert not (tmp_path / "other").exists()

    def test_attention(self, state: State, tmp_path: Path) -> None:
        attention = state | {"fc_att.weight": state["fc_prob.weight"] * 2, "fc_att.bias": state["fc_prob.bias"]}
        torch.save({"model": attention}, tmp_path / "att.pt")
        convert_checkpoint(tmp_path / "att.pt", tmp_path / "out", normalizer=saved_normalizer(tmp_path))
        assert_converted(tmp_path / "out", attention, "attention")
        assert resolve(tmp_path / "out").config.mean == tuple(MEAN)


class TestPooling:
    def test_linear_is_assumed_and_said(self, state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        torch.save(state, tmp_path / "TALNet.pt")
        convert_checkpoint(tmp_path / "TALNet.pt", tmp_path / "out")
        assert resolve(tmp_path / "out").config.pooling == "linear"
        assert "linear softmax is assumed" in caplog.text

    @pytest.mark.parametrize("pooling", ["linear", "max", "average", "exponential"])
    def test_named(self, state: State, tmp_path: Path, pooling: Any, caplog: pytest.LogCaptureFixture) -> None:
        torch.save(state, tmp_path / "TALNet.pt")
        arguments = ["convert", str(tmp_path / "TALNet.pt"), "-o", str(tmp_path / "out"), "--pooling", pooling]
        assert main(arguments) == 0
        assert resolve(tmp_path / "out").config.pooling == pooling
        assert "assumed" not in caplog.text

    def test_one_that_does_not_fit_the_layers(self, state: State, tmp_path: Path) -> None:
        torch.save(state, tmp_path / "TALNet.pt")
        with pytest.raises(ValueError, match=r"'attention' does not fit .* it does not have the layer fc_att"):
            convert_checkpoint(tmp_path / "TALNet.pt", tmp_path / "out", pooling="attention")
        assert not (tmp_path / "out").exists()


class TestRefused:
    def test_other_networks(self, state: State, tmp_path: Path) -> None:
        wrong = {key.replace("gru.", "lstm."): tensor for key, tensor in state.items()}
        torch.save(wrong, tmp_path / "other.pt")
        says = (
            r"other\.pt does not fit .*missing gru\.bias_hh_l0, .* and 4 more; unexpected lstm\.bias_hh_l0, .* and 4 "
        )
        with pytest.raises(WeightsError, match=says):
            convert_checkpoint(tmp_path / "other.pt", tmp_path / "out")
        torch.save(state | {"fc_prob.bias": torch.zeros(1).expand(2**40)}, tmp_path / "other.pt")
        with pytest.raises(WeightsError, match=r"fc_prob\.bias has shape \(1099511627776,\), expected \(527,\)"):
            convert_checkpoint(tmp_path / "other.pt", tmp_path / "out")

    @pytest.mark.parametrize(
        "content",
        [
            [torch.zeros(2)],
            torch.zeros(2),
            {"model": {"a": 1}},
            {1: torch.zeros(1)},
            {"a": torch.zeros(2).to_sparse()},
            {"a": torch.zeros(2, device="meta")},
        ],
    )
    def test_something_else_than_a_state(self, content: object, tmp_path: Path) -> None:
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(WeightsError, match="it holds something else"):
            convert_checkpoint(tmp_path / "x.pt", tmp_path / "out")

    @pytest.mark.parametrize("legacy", [False, True])
    def test_code_in_a_checkpoint_is_not_run(self, legacy: bool, tmp_path: Path) -> None:
        class Attack:
            def __reduce__(self) -> tuple[Any, ...]:
                return (exec, (f"open({str(tmp_path / 'pwned')!r}, 'w')",))

        torch.save({"model": Attack()}, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(WeightsError, match=r"but it asks for \S*exec\. Nothing in it was run") as caught:
            convert_checkpoint(tmp_path / "x.pt", tmp_path / "out")
        assert "weights_only" not in str(caught.value)
        assert not (tmp_path / "pwned").exists()

    @pytest.mark.parametrize(
        "data", [b"", b"RIFF", convert._LEGACY_MAGIC, convert._LEGACY_MAGIC * 9, b"PK\x03\x04" * 9]
    )
    def test_no_checkpoint_at_all(self, data: bytes, tmp_path: Path) -> None:
        (tmp_path / "x.pt").write_bytes(data)
        with pytest.raises(WeightsError, match=r"Expected in .* PyTorch checkpoint"):
            convert_checkpoint(tmp_path / "x.pt", tmp_path / "out")

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFoundError, match="No such file"):
            convert_checkpoint(tmp_path / "x.pt", tmp_path / "out")


DTYPE = b"cnumpy\ndtype\np7\n(S'f8'\np8\nI0\nI1\ntp9\nRp10\n(I3\nS'<'\np11\nNNNI-1\nI-1\nI0\ntp12\nb"


def array_text(values: np.ndarray[Any, Any], shape: str = "(I64\nt", dtype: bytes = DTYPE) -> bytes:
    """One array as Python 2 pickled it in protocol 0."""
    raw = repr(values.astype("<f8").tobytes())[1:].encode()
    start = b"cnumpy.core.multiarray\n_reconstruct\np1\n(cnumpy\nndarray\np2\n(I0\ntp3\nS'b'\np4\ntp5\nRp6\n(I1\n"
    return start + shape.encode() + dtype + b"I00\nS" + raw + b"\np13\ntp14\nb"


def pair_text(mean: np.ndarray[Any, Any] = MEAN, std: np.ndarray[Any, Any] = STD, **kwargs: str) -> bytes:
    return b"(" + array_text(mean, **kwargs) + array_text(std, dtype=b"g10\n") + b"tp15\n."


def saved_normalizer(directory: Path, data: bytes | None = None) -> Path:
    path = directory / "normalizer.pkl"
    path.write_bytes(pair_text() if data is None else data)
    return path


class TestNormalizer:
    def test_python_2(self, tmp_path: Path) -> None:
        data = pair_text()
        unsafe = pickle.loads(data.replace(b"numpy.core", b"numpy._core"), encoding="latin1")  # the text is a real one
        np.testing.assert_array_equal(unsafe[0], MEAN)
        assert read_normalizer(saved_normalizer(tmp_path, data)) == (tuple(MEAN), tuple(STD))

    @pytest.mark.parametrize("protocol", range(5))
    @pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4"])
    def test_python_3(self, protocol: int, dtype: str, tmp_path: Path) -> None:
        pair = (MEAN.astype(dtype), STD.astype(dtype))
        mean, std = read_normalizer(saved_normalizer(tmp_path, pickle.dumps(pair, protocol)))
        np.testing.assert_array_equal(mean, pair[0])
        np.testing.assert_array_equal(std, pair[1])

    @pytest.mark.parametrize(
        "data",
        [
            pair_text(mean=np.full(64, np.nan)),
            pair_text(std=np.zeros(64)),
            pair_text(mean=MEAN[:63]),
            pair_text(shape="(I32\nI2\nt"),
            pair_text(shape="(I100000000000\nt"),
            array_text(MEAN) + b".",
            pickle.dumps((1.0, 2.0)),
            pickle.dumps((np.arange(64), np.arange(64))),
            pickle.dumps((np.array(["x"] * 64, dtype=object), STD), 2),
            pickle.dumps({"mu": 1}),
            b"",
            b"PK",
            pair_text()[:-20],
            b"\x00" * 2_000_000,
        ],
    )
    def test_other_content(self, data: bytes, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"Expected in .* a pickled pair .* of 64 numbers each, but "):
            read_normalizer(saved_normalizer(tmp_path, data))

    @pytest.mark.parametrize(
        "attack",
        [
            "cos\nsystem\n(S'touch {0}'\ntR.",
            "cposix\nsystem\n(S'touch {0}'\ntR.",
            'c__builtin__\neval\n(S\'open("{0}", "w")\'\ntR.',
            'cbuiltins\nexec\n(S\'open("{0}", "w")\'\ntR.',
            "c__builtin__\ngetattr\n(cnumpy\nndarray\nS'__init__'\ntR.",
            "(S'touch {0}'\nios\nsystem\n.",
            "cnumpy\nload\n(S'{0}'\ntR.",
            "cnumpy.core.multiarray\nscalar\n(S'x'\ntR.",
            "\x80\x04\x8c\x05numpy\x8c\x18ndarray.__init__.__self__\x93.",
            "\x80\x02cnumpy\nndarray\n)\x81.",
            "\x80\x02\x82\x01.",
            "Pos.system\n.",
            "cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I10000000000000\ntS'b'\ntR.",
        ],
    )
    def test_attacks_do_nothing(self, attack: str, tmp_path: Path) -> None:
        target = tmp_path / "pwned"
        data = attack.replace("{0}", str(target)).encode("latin1")
        with pytest.raises(WeightsError, match="Leave the normalizer out"):
            read_normalizer(saved_normalizer(tmp_path, data))
        assert not target.exists()

    def test_an_attack_cannot_change_the_reader(self, tmp_path: Path) -> None:
        attack = b"(cnumpy\nndarray\n(N(S'__class__'\nS'x'\ndtbcnumpy\ndtype\n(N(S'__setstate__'\nS'x'\ndtbt."
        with pytest.raises(WeightsError, match="other than arrays"):
            read_normalizer(saved_normalizer(tmp_path, attack))
        assert read_normalizer(saved_normalizer(tmp_path)) == (tuple(MEAN), tuple(STD))

    @pytest.mark.parametrize("memo", [b"Np4000000000\n", b"\x80\x02Nr\xff\xff\xff\xff"])
    def test_memo_index_reserves_no_memory(self, memo: bytes, tmp_path: Path) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(WeightsError, match="the file holds something else"):
            read_normalizer(saved_normalizer(tmp_path, memo + b"."))
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2 * before

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFoundError, match="No such file"):
            read_normalizer(tmp_path / "normalizer.pkl")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_cut_checkpoint_is_called_cut(tmp_path: Path, legacy: bool):
    """Wherever it ends, in the format of PyTorch 1.6 and later and in the one before."""
    file = tmp_path / "TALNet.pt"
    content = {"model": {"a": torch.randn(200, 20), "b": torch.randn(50)}, "optimizer": {}}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    data = file.read_bytes()
    for size in [*range(0, 1500, 37), *range(1500, len(data), 500), len(data) - 1]:
        file.write_bytes(data[:size])
        with pytest.raises(WeightsError, match=f"cut short after {size} bytes; copy or download"):
            convert_checkpoint(file, tmp_path / "out")
    file.write_bytes(data)
    with pytest.raises(WeightsError, match="does not fit the architecture"):
        convert_checkpoint(file, tmp_path / "out")


def test_an_output_that_is_a_file(tmp_path: Path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OSError, match="got a file; choose another place"):
        convert_checkpoint(tmp_path / "TALNet.pt", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"
