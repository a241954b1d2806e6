"""Embed and tag a recording without PyTorch or sedembed: ``python examples/run_onnx.py model.onnx recording.wav``.

``sedembed export talnet -o model.onnx`` writes the model. This needs librosa and onnxruntime.
"""

from __future__ import annotations

import json
import sys

import librosa
import numpy as np
import onnxruntime


def main() -> None:
    session = onnxruntime.InferenceSession(sys.argv[1])
    about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    front, rate = about["front_end"], about["front_end"]["sample_rate"]
    wave = librosa.load(sys.argv[2], sr=rate, mono=True)[0][: round(front["window"] * rate)]  # the first window
    wave = np.pad(wave, (0, max(0, front["min_samples"] - len(wave))))
    ten_seconds = len(wave) == 10 * rate
    frames = 1 + len(wave) // front["hop_length"]
    frames = -(-frames // front["multiple"]) * front["multiple"]  # zeros follow up to a whole number of segments
    wave = np.pad(wave, (0, max(0, (frames - 1) * front["hop_length"] - len(wave))))
    sizes = {name: front[name] for name in ("n_fft", "hop_length", "win_length")}
    magnitude = np.abs(librosa.stft(wave, **sizes, pad_mode="constant")) ** front["power"]
    mel = librosa.feature.melspectrogram(S=magnitude, sr=rate, n_mels=front["n_mels"])
    decibels = librosa.power_to_db(mel, top_db=front["top_db"]).T.astype(np.float32)
    if ten_seconds:  # the authors of TALNet keep 400 frames of ten seconds
        decibels = decibels[: front["frames_in_10_seconds"]]
    _, embedding, probabilities = session.run(None, {"log_mel": decibels[None]})
    print(f"embedding of {embedding.shape[1]} numbers, the first {np.round(embedding[0, :4], 6).tolist()}")
    for i in probabilities[0].argsort()[::-1][:5]:
        print(f"{probabilities[0, i]:.4f} {about['labels'][i]}")


if __name__ == "__main__":
    main()
