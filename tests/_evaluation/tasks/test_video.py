"""Kinetics-700 and AudioSet: small copies in the layouts of their distributors, and the cache of probabilities."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sedembed._evaluation.tasks.kinetics700 import Kinetics700
from sedembed.batch.tag_files import tag_files
from sedembed.embedder import Embedder
from tests._evaluation.tasks.video_helpers import kinetics_copy  # noqa: F401

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the program ffmpeg is not installed")


@needs_ffmpeg
class TestVideo:
    @pytest.fixture
    def videos(self, kinetics_copy: Path) -> Path:
        """Real containers with picture and tone; one has no sound, one is damaged."""
        for number, file in enumerate(sorted(kinetics_copy.glob("[tv]*/*/*.*"))):
            codecs = ["-c:v", "libvpx", "-c:a", "libvorbis"] if file.suffix == ".webm" else []
            sound = ["-f", "lavfi", "-i", f"sine=frequency={200 + 100 * number}:duration=0.5"]
            if "aTEL_jDcIzE" in file.name:
                sound = []
            picture = ["-f", "lavfi", "-i", "color=size=32x32:rate=5:duration=0.5"]
            command = ["ffmpeg", "-nostdin", "-v", "error", "-y", *picture, *sound, *codecs, f"file:{file}"]
            subprocess.run(command, check=True, timeout=60)
        (kinetics_copy / "train/massaging person's head/Y0aaaaaaaaa_100000_100010.mp4").write_bytes(
            b"\0\0\0\x18ftypmp42"
        )
        return kinetics_copy

    def test_sound_of_videos(self, videos: Path, untrained_embedder: Embedder, tmp_path: Path) -> None:
        contents = Kinetics700().read(videos)
        paths = [clip.path for clip in contents.clips if clip.path not in contents.missing]
        probabilities, failures = tag_files(videos, paths, tmp_path / "tags", untrained_embedder, progress=False)
        assert set(failures) == {paths[2], paths[3]}
        assert failures[paths[2]][0] == "AudioDecodeError"
        assert "no audio track" in failures[paths[2]][1]
        for path, row in zip(paths, probabilities, strict=True):
            if path in failures:
                assert np.isnan(row).all()
            else:
                np.testing.assert_allclose(row, untrained_embedder.tag(videos / path), rtol=1e-5)
