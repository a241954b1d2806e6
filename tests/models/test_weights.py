from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sedembed.errors import ModelNotFoundError, WeightsError
from sedembed.models import registry, weights
from sedembed.models.layers.blocks import fold_batchnorm
from sedembed.models.talnet import TALNet, TALNetConfig
from sedembed.models.weights import load_config, load_network, resolve, save_pretrained

CONFIG = TALNetConfig(mean=tuple(i / 3 - 20 for i in range(64)), std=tuple(1 + i / 7 for i in range(64)))


@pytest.fixture(scope="module")
def network() -> TALNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = TALNet(CONFIG).eval()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-1, 1)
                module.running_var.uniform_(0.5, 2)
    return network


@pytest.fixture(scope="module")
def saved(network: TALNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pretrained(network, tmp_path_factory.mktemp("saved"))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Directory that resolves; its only tensor is no TALNet."""
    save_file({"fc_prob.bias": torch.zeros(527), "x.running_mean": torch.zeros(3)}, tmp_path / "model.safetensors")
    write_config(tmp_path)
    return tmp_path


def write_config(directory: Path, **changes: object) -> Path:
    path = directory / "config.json"
    path.write_text(json.dumps(dataclasses.asdict(CONFIG) | changes))
    return path


class TestRoundTrip:
    def test_same_network(self, network: TALNet, saved: Path) -> None:
        before = torch.get_rng_state()
        loaded = load_network(resolve(saved))
        assert torch.equal(torch.get_rng_state(), before)
        assert isinstance(loaded, TALNet)
        assert not loaded.training
        assert loaded.config == CONFIG
        x = torch.rand(1, 12, 64, generator=torch.Generator().manual_seed(1)) * 40 - 40
        with torch.inference_mode():
            expected, output = network(x), loaded(x)
        assert torch.equal(output.frames, expected.frames)
        assert torch.equal(loaded.pool(output), network.pool(expected))

    def test_files(self, saved: Path) -> None:
        assert sorted(path.name for path in saved.iterdir()) == ["README.md", "config.json", "model.safetensors"]
        assert load_config(saved) == load_config(saved / "config.json") == CONFIG
        assert not any("num_batches_tracked" in key for key in load_file(saved / "model.safetensors"))

    def test_record(self, saved: Path) -> None:
        resolved = resolve(str(saved))
        record = resolved.record
        assert resolved.directory == saved
        assert record.version == f"local-{record.sha256[:12]}"
        assert (record.source, record.name, record.licence) == ("local", saved.name, "not stated")
        assert record.bytes == (saved / "model.safetensors").stat().st_size
        assert record.parameters == registry.describe_model("talnet").parameters
        assert record.metrics == {}

    def test_float16_is_half_the_size_and_the_same_bytes_each_time(self, network: TALNet, tmp_path: Path) -> None:
        for name in ("a", "b"):
            save_pretrained(network, tmp_path / name, dtype=torch.float16)
        first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b"))
        assert first == second
        assert len(first) < 20_100_000
        stored = load_file(tmp_path / "a" / "model.safetensors")
        assert {t.dtype for t in stored.values() if t.ndim > 1} == {torch.float16}
        assert {t.dtype for t in stored.values() if t.ndim == 1} == {torch.float32}
        loaded = load_network(resolve(tmp_path / "a")).state_dict()
        assert {t.dtype for t in loaded.values() if t.is_floating_point()} == {torch.float32}
        for key, tensor in network.state_dict().items():
            torch.testing.assert_close(loaded[key], tensor, rtol=1e-3, atol=1e-6)

    def test_one_file_is_enough(self, saved: Path, tmp_path: Path) -> None:
        alone = tmp_path / "alone.safetensors"
        alone.symlink_to(saved / "model.safetensors")
        assert resolve(alone).config == CONFIG
        load_network(resolve(alone))

    def test_card(self, network: TALNet, saved: Path, tmp_path: Path) -> None:
        assert "sedembed" in (saved / "README.md").read_text()
        save_pretrained(network, tmp_path, card="Mine.", dtype=torch.float16)
        save_pretrained(network, tmp_path, dtype=torch.float16)
        assert (tmp_path / "README.md").read_text() == "Mine."
        assert not list(tmp_path.glob(".*"))


class TestSavingRefuses:
    def test_integer_type(self, network: TALNet, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="dtype must be"):
            save_pretrained(network, tmp_path, dtype=torch.int8)

    def test_what_could_not_be_loaded(self, network: TALNet, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"missing conv1\.bn\.bias"):
            save_pretrained(fold_batchnorm(network), tmp_path / "out")
        too_large = TALNet(CONFIG)
        with torch.no_grad():
            too_large.fc_prob.weight[0, 0] = 1e6
        with pytest.raises(WeightsError, match=r"fc_prob\.weight holds NaN or infinity"):
            save_pretrained(too_large, tmp_path / "out", dtype=torch.float16)
        assert not (tmp_path / "out").exists()

    def test_a_failed_write_leaves_the_old_file(
        self, network: TALNet, tiny: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old = (tiny / "model.safetensors").read_bytes()

        def full(self: Path, target: Path) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="disk full"):
            save_pretrained(network, tiny)
        assert (tiny / "model.safetensors").read_bytes() == old
        assert not list(tiny.glob(".*"))


class TestResolve:
    def test_user_made_directory(self, tiny: Path) -> None:
        assert resolve(tiny).record.parameters == 527
        assert resolve(tiny / "model.safetensors").record == resolve(tiny).record

    def test_registered_name_with_packaged_file(self, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sha256 = resolve(tiny).record.sha256
        monkeypatch.setattr(weights, "_packaged", lambda name: tiny / "model.safetensors")
        for pinned in (sha256, ""):
            record = dataclasses.replace(registry.describe_model("talnet"), sha256=pinned)
            monkeypatch.setattr(weights, "describe_model", lambda name, record=record: record)
            assert resolve("talnet").record is record
        record = dataclasses.replace(record, sha256="ab" * 32)
        monkeypatch.setattr(weights, "describe_model", lambda name: record)
        with pytest.raises(WeightsError, match=rf"sha256 should be (ab){{32}}, got {sha256}\. Install sedembed again"):
            resolve("talnet")

    def test_registered_name_wins_over_a_directory(self, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tiny / "talnet").mkdir()
        monkeypatch.chdir(tiny)
        monkeypatch.setattr(weights, "_packaged", lambda name: tiny / "nowhere" / "model.safetensors")
        with pytest.raises(ModelNotFoundError, match=r"belong to the package, but .* is missing"):
            resolve("talnet")
        with pytest.raises(WeightsError, match=r"Expected weights at talnet.model\.safetensors"):
            resolve("./talnet")

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("tallnet", "Did you mean 'talnet'"),
            ("no/where", r"no file or directory no.where.*hf://org/repo"),
            ("model.safetensors", "no file or directory"),
            (Path("talnett"), "no file or directory"),
            ("hf://lonely", "Expected hf://org/repo"),
            ("hf://../..", "Expected hf://org/repo"),
            ("hf://org/repo@../../x", "Expected hf://org/repo"),
            ("hf://or--g/repo", "does not name a repository"),
        ],
    )
    def test_nothing_there(self, name: str | Path, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ModelNotFoundError, match=says):
            resolve(name)

    @pytest.mark.parametrize("name", ["TALNet.pt", "model.PTH", "pytorch_model.bin", "normalizer.pkl"])
    def test_pickles_are_sent_to_convert(self, name: str, tmp_path: Path) -> None:
        (tmp_path / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
        with pytest.raises(WeightsError, match="run: sedembed convert "):
            resolve(tmp_path / name)
        with pytest.raises(WeightsError, match="run: sedembed convert "):
            resolve(tmp_path)

    def test_other_files(self, tmp_path: Path) -> None:
        (tmp_path / "model.onnx").touch()
        with pytest.raises(WeightsError, match=r"Expected a \.safetensors file"):
            resolve(tmp_path / "model.onnx")
        with pytest.raises(WeightsError, match="Expected weights at"):
            resolve(tmp_path)

    def test_config_missing_or_of_another_model(self, tiny: Path) -> None:
        (tiny / "config.json").unlink()
        with pytest.raises(WeightsError, match="Expected a configuration at"):
            resolve(tiny)
        inside = json.dumps(dataclasses.asdict(CONFIG))
        save_file({"x": torch.zeros(1)}, tiny / "model.safetensors", metadata={"config": inside})
        assert resolve(tiny).config == CONFIG
        write_config(tiny, classes=10)
        with pytest.raises(WeightsError, match="not of one model"):
            resolve(tiny)

    @pytest.mark.parametrize("data", [b"", b"\x80\x02.", b"\xff" * 100, (10**9).to_bytes(8, "little") + b"{}"])
    def test_damaged(self, data: bytes, tiny: Path) -> None:
        (tiny / "model.safetensors").write_bytes(data)
        with pytest.raises(WeightsError, match="not a readable safetensors file"):
            resolve(tiny)

    def test_truncated(self, tiny: Path) -> None:
        file = tiny / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(WeightsError, match="not a readable safetensors file"):
            resolve(tiny)


class TestConfig:
    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"extra": 1, "other": 2}, "unknown key 'extra', 'other'"),
            ({"architecture": "vggish"}, "'architecture' should be one of talnet, weanet, got 'vggish'"),
            ({"architecture": ["talnet"]}, "'architecture' should be one of"),
            ({"classes": True}, "classes must be a whole number of at least 1, got True"),
            ({"classes": 527.0}, r"classes must be a whole number of at least 1, got 527\.0"),
            ({"classes": 0}, "classes must be a whole number of at least 1"),
            ({"pooling": "lin"}, "pooling must be one of 'max', .*got 'lin'"),
            ({"mean": [0.0] * 63}, "64 numbers each"),
            ({"mean": [float("nan")] * 64}, "mean must be a list of finite numbers"),
            ({"mean": [True] * 64}, "mean must be a list of finite numbers"),
            ({"mean": "0"}, "mean must be a list of finite numbers, got '0'"),
            ({"std": [0] * 64}, "positive"),
        ],
    )
    def test_wrong_value(self, changes: dict[str, object], says: str, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=says):
            load_config(write_config(tmp_path, **changes))

    @pytest.mark.parametrize("key", [field.name for field in dataclasses.fields(TALNetConfig)])
    def test_every_key_is_needed(self, key: str, tmp_path: Path) -> None:
        values = {k: v for k, v in dataclasses.asdict(CONFIG).items() if k != key}
        (tmp_path / "config.json").write_text(json.dumps(values))
        with pytest.raises(WeightsError, match=f"'{key}'"):
            load_config(tmp_path)

    @pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe\xff", b"[" * 100_000])
    def test_no_json(self, text: bytes, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_bytes(text)
        with pytest.raises(WeightsError, match="not valid JSON"):
            load_config(tmp_path)

    def test_no_object(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("[]")
        with pytest.raises(WeightsError, match="expected a JSON object, got list"):
            load_config(tmp_path)

    def test_whole_numbers_are_numbers(self, tmp_path: Path) -> None:
        config = load_config(write_config(tmp_path, mean=[0] * 64))
        assert config.mean == (0.0,) * 64
        assert isinstance(config.mean[0], float)


class TestStrictTensors:
    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda state: state.pop("gru.bias_hh_l0"), r"missing gru\.bias_hh_l0\."),
            (lambda state: state.update(more=torch.zeros(1)), r"unexpected more\."),
            (lambda state: state.update({"fc_att.bias": torch.zeros(527)}), r"unexpected fc_att\.bias\."),
            (
                lambda state: state.update({"fc_prob.bias": torch.zeros(10)}),
                r"fc_prob\.bias has shape \(10,\), expected \(527,\)\.",
            ),
            (
                lambda state: state.update({"conv2.conv.bias": torch.zeros(32, dtype=torch.int64)}),
                r"conv2\.conv\.bias holds torch\.int64",
            ),
            (
                lambda state: state.update({"conv2.bn.running_var": torch.full((32,), torch.nan)}),
                r"conv2\.bn\.running_var holds NaN or infinity",
            ),
            (lambda state: state.clear(), r"missing conv1\.bn\.bias, .* and 66 more"),
        ],
    )
    def test_does_not_fit(
        self, change: Callable[[dict[str, torch.Tensor]], object], says: str, network: TALNet
    ) -> None:
        state = dict(network.state_dict())
        change(state)
        with pytest.raises(WeightsError, match=rf"^The file does not fit the architecture 'talnet': .*{says}"):
            weights.assemble(CONFIG, state, "The file")

    def test_every_problem_is_named_up_to_six(self, network: TALNet) -> None:
        state = {key: torch.zeros(2) for key in network.state_dict()}
        with pytest.raises(WeightsError, match=r"conv1\.bn\.bias has shape.*; and 64 more\."):
            weights.assemble(CONFIG, state, "The file")

    def test_wrong_file_at_load(self, tiny: Path) -> None:
        with pytest.raises(
            WeightsError, match=r"model\.safetensors does not fit .*missing.*unexpected x\.running_mean"
        ):
            load_network(resolve(tiny))
