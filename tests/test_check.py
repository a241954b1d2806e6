"""sedembed check: right on this machine, and wrong when something is."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from sedembed import check
from sedembed._utils.machine import CORE_PACKAGES, show_versions
from sedembed.cli.main import main
from sedembed.loading import load_model
from sedembed.models.registry import describe_model
from sedembed.models.weanet import WEANet

ROOT = Path(__file__).parents[1]


def test_this_machine_is_in_order(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(check, "list_models", lambda: ["talnet"])
    assert main(["check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert 8 <= len(lines) <= 24  # one screen
    assert not [line for line in lines if line.startswith("wrong")]
    text = "\n".join(lines)
    for part in (describe_model("talnet").sha256, "torch float32 cpu: golden vector to", "libsndfile", "GPU", "torch "):
        assert part in text


@pytest.mark.parametrize("name", ["talnet", "weanet"])
def test_golden_vectors_belong_to_the_weights(name: str):
    golden = json.loads((ROOT / "sedembed" / "weights" / name / "golden.json").read_text())
    record = describe_model(name)
    assert (golden["sha256"], golden["version"]) == (record.sha256, record.version), (
        "a weight was replaced: run sedembed.check.write_golden as docs/releasing.md says"
    )
    assert len(golden["embedding"]) == record.embedding_size // 8


def test_the_sound_is_the_same_everywhere():
    sound = check.check_sound()
    assert (sound.dtype, sound.shape) == (np.float32, (32_000,))
    # Worked out with whole numbers: 1103515245 + 12345 and so on, modulo 2**31.
    first = 1_103_527_590
    second = (1_103_515_245 * first + 12_345) % 2**31
    assert sound[0] == np.float32(0.05 * (first / 2**30 - 1) + 0.5)
    assert sound[1] == pytest.approx(
        0.3 * np.sin(2 * np.pi * (200 + 900 / 16_000) / 16_000) + 0.05 * (second / 2**30 - 1), abs=1e-7
    )


class TestWrong:
    def test_exit_code(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
        findings = [check.Finding("ok", "a", "fine"), check.Finding("wrong", "b", "not fine")]
        monkeypatch.setattr(check, "check_installation", lambda: iter(findings))
        assert main(["check", "--json"]) == 1
        printed = json.loads(capsys.readouterr().out)
        assert printed == {"ok": False, "findings": [dataclasses.asdict(finding) for finding in findings]}
        assert main(["check"]) == 1
        assert "1 of 2 lines are wrong" in capsys.readouterr().err

    def test_other_weights(self):
        record = dataclasses.replace(describe_model("weanet"), sha256="0" * 64)
        (finding,) = check._weights(record)
        assert finding.state == "wrong"
        assert re.search(r"model\.safetensors has sha256 \w{64}, not 0{64}; install sedembed again", finding.text)

    def test_no_weights(self):
        (finding,) = check._weights(dataclasses.replace(describe_model("weanet"), name="nowhere"))
        assert (finding.state, "No such file" in finding.text) == ("wrong", True)

    def test_no_golden_vector(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        monkeypatch.setattr(check, "_golden_file", lambda _: tmp_path / "golden.json")
        assert [finding.state for finding in check._weights(describe_model("weanet"))] == ["ok", "wrong"]
        (tmp_path / "golden.json").write_text('{"sha256": "other", "embedding": [1.0]}')
        assert "of other weights" in list(check._weights(describe_model("weanet")))[1].text

    def test_another_vector(self, small_weanet: WEANet, small_weanet_dir: Path):
        sound = check.check_sound()
        model = load_model(small_weanet_dir, device="cpu")
        expected = model.embed(sound)[::8].astype(np.float64)
        good = check._vector(small_weanet, model.record, sound, expected, "cpu", "torch", "float32")
        assert (good.state, good.text[:40]) == ("ok", "torch float32 cpu: golden vector to 0e+0"), good
        bad = check._vector(small_weanet, model.record, sound, 1.001 * expected, "cpu", "torch", "float32")
        assert (bad.state, "allowed 1e-04" in bad.text) == ("wrong", True)
        half = check._vector(small_weanet, model.record, sound, expected, "cpu", "torch", "bfloat16")
        assert half.state == "ok"

    def test_old_dependencies(self):
        versions = dict.fromkeys(CORE_PACKAGES, "99.0") | {"torch": "1.0", "tqdm": "unknown"}
        assert [name for name, _ in check._unmet(versions)] == ["torch", "tqdm"]


def test_the_packages_are_those_of_the_metadata():
    text = (ROOT / "pyproject.toml").read_text()
    listed = re.findall(r'"([\w-]+)>=', re.search(r"^dependencies = \[(.*?)^\]", text, re.S | re.M)[1])  # type: ignore[index]
    assert list(CORE_PACKAGES) == listed


def test_show_versions(capsys: pytest.CaptureFixture[str]):
    show_versions()
    lines = [line.split(maxsplit=1)[0] for line in capsys.readouterr().out.splitlines()]
    assert {"python", "sedembed", "torch", "openvino", "processor", "cores", "gpus"} <= set(lines)
