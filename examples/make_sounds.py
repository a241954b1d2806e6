"""Make the recordings in `examples/sounds/`: speech by espeak-ng, everything else by arithmetic.

Run `python examples/make_sounds.py [--out DIR]`. Every sound is a short function of a sample rate and a seeded random
generator, so the same sounds come out each time; formats and rates differ on purpose, as they do in a real folder.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile as sf
import soxr
from scipy import signal
from scipy.interpolate import CubicSpline


class NoSpeechError(RuntimeError):
    """The espeak-ng executable, which the two speech files need, is not installed."""


# ---------------------------------------------------------------------------------------------------- building blocks


def times(seconds: float, rate: int) -> np.ndarray:
    """Return the time of every sample in seconds."""
    return np.arange(int(seconds * rate)) / rate


def low(x: np.ndarray, rate: int, hz: float, order: int = 2) -> np.ndarray:
    """Keep what lies below `hz`."""
    return signal.sosfilt(signal.butter(order, min(hz, 0.49 * rate), "lowpass", fs=rate, output="sos"), x)


def high(x: np.ndarray, rate: int, hz: float, order: int = 2) -> np.ndarray:
    """Keep what lies above `hz`."""
    return signal.sosfilt(signal.butter(order, hz, "highpass", fs=rate, output="sos"), x)


def band(x: np.ndarray, rate: int, bottom: float, top: float, order: int = 2) -> np.ndarray:
    """Keep what lies between `bottom` and `top` hertz."""
    edges = [bottom, min(top, 0.49 * rate)]
    return signal.sosfilt(signal.butter(order, edges, "bandpass", fs=rate, output="sos"), x)


def resonate(x: np.ndarray, rate: int, hz: float, q: float) -> np.ndarray:
    """Ring at `hz`, the more sharply the higher `q`."""
    return signal.lfilter(*signal.iirpeak(hz, q, fs=rate), x)


def coloured(n: int, rng: np.random.Generator, slope: float) -> np.ndarray:
    """Return noise of unit variance whose amplitude falls as 1 / frequency ** `slope`: 0.5 is pink, 1 is brown."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    noise = np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), 4.0) ** slope, n)
    return noise / noise.std()


def wander(n: int, rate: int, hz: float, rng: np.random.Generator) -> np.ndarray:
    """Return a smooth random curve about zero that turns some `hz` times a second."""
    knots = rng.standard_normal(int(n / rate * hz) + 4)
    return CubicSpline(np.arange(len(knots)), knots)(np.linspace(1, len(knots) - 3, n))


def mix(track: np.ndarray, at: float, sound: np.ndarray, rate: int) -> None:
    """Add `sound` to `track` in place, `at` seconds from its start; what runs over the end is cut."""
    start = int(at * rate)
    stop = min(len(track), start + len(sound))
    if stop > start:
        track[start:stop] += sound[: stop - start]


def room(
    x: np.ndarray, rate: int, rng: np.random.Generator, seconds: float, wet: float, top: float = 4000
) -> np.ndarray:
    """Add the reverberation of a space: `seconds` to die away by 60 dB, duller above `top` hertz."""
    t = times(seconds, rate)
    tail = low(rng.standard_normal(len(t)) * np.exp(-6.9 * t / seconds), rate, top, 1)
    tail[: int(0.004 * rate)] = 0
    return x + wet * signal.fftconvolve(x, tail / np.sqrt(np.sum(tail**2)))[: len(x)]


# ------------------------------------------------------------------------------------------------------------- sounds


def speech(rate: int, rng: np.random.Generator, voice: str, text: str) -> np.ndarray:
    """Let espeak-ng say `text`, in a room."""
    if shutil.which("espeak-ng") is None:
        raise NoSpeechError("espeak-ng is not installed (Debian, Ubuntu: apt install espeak-ng; macOS: brew install)")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        subprocess.run(["espeak-ng", "-v", voice, "-s", "155", "-w", str(path), text], check=True)
        said, said_rate = sf.read(path)
    said = soxr.resample(said / np.abs(said).max(), said_rate, rate, quality="HQ")
    return room(said, rate, rng, 0.35, 0.3) + 0.001 * coloured(len(said), rng, 0.5)


def church_bell(rate: int, rng: np.random.Generator) -> np.ndarray:
    """Strike a bell four times: inharmonic partials, each a beating pair with its own decay, and the clapper."""
    # ratio to the prime, strength, decay in seconds: hum, prime, tierce, quint, nominal and what lies above
    partials = (
        (0.5, 0.6, 6.0),
        (1.0, 0.7, 4.5),
        (1.183, 0.9, 4.0),
        (1.506, 0.5, 2.5),
        (2.0, 1.0, 2.4),
        (2.514, 0.45, 1.4),
        (2.662, 0.4, 1.3),
        (3.011, 0.5, 1.2),
        (4.166, 0.4, 0.8),
        (5.433, 0.3, 0.6),
        (6.796, 0.22, 0.45),
        (8.215, 0.15, 0.35),
        (9.8, 0.1, 0.25),
    )
    t = times(5, rate)
    track = np.zeros(len(t))
    for strike in range(4):
        ring = np.zeros(len(t))
        for ratio, strength, decay in partials:
            for side in (-1, 1):
                hz = 330 * ratio + side * rng.uniform(0.2, 1.0)
                level = 0.5 * strength * rng.uniform(0.7, 1.2) * np.exp(-3 * t / decay)
                ring += level * np.sin(2 * np.pi * hz * t + rng.uniform(0, 2 * np.pi))
        ring *= 1 - np.exp(-t / 0.002)
        ring += 0.3 * band(rng.standard_normal(len(t)), rate, 1500, 7000) * np.exp(-t / 0.012)
        mix(track, 0.05 + 1.25 * strike, rng.uniform(0.8, 1.0) * ring, rate)
    return room(track, rate, rng, 1.8, 0.9) + 0.003 * coloured(len(t), rng, 0.5)


def police_siren(rate: int, rng: np.random.Generator) -> np.ndarray:
    """Wail up and down between 570 and 1330 Hz through a horn, in a street."""
    t = times(6, rate)
    hz = 950 + 380 * signal.sawtooth(2 * np.pi * t / 4 - 0.3, 0.45)
    hz = low(hz - hz[0], rate, 3, 1) + hz[0]
    phase = 2 * np.pi * np.cumsum(hz) / rate
    wail = band(np.tanh(1.5 * sum(np.sin(k * phase) / k for k in range(1, 12))), rate, 500, 4500)
    wail *= 1 + 0.2 * wander(len(t), rate, 3, rng)
    return room(wail, rate, rng, 1.6, 0.8, 3000) + 0.06 * coloured(len(t), rng, 0.5)


def rain(rate: int, rng: np.random.Generator) -> np.ndarray:
    """Let five thousand drops fall over the hiss of the rain farther off, a few of them into puddles."""
    seconds = 5
    hiss = low(high(coloured(seconds * rate, rng, 0.5), rate, 600, 1), rate, 5000, 1)
    near, puddles = np.zeros(len(hiss)), np.zeros(len(hiss))
    t = times(0.012, rate)
    for _ in range(5000):
        drop = rng.standard_normal(len(t)) * np.exp(-t / (0.0015 * rng.uniform(0.4, 1.5)))
        mix(near, rng.uniform(0, seconds), min(8, 0.3 + rng.pareto(2)) * drop, rate)
    t = times(0.04, rate)
    for _ in range(60):
        bubble = np.sin(2 * np.pi * rng.uniform(400, 1600) * t * (1 + 3 * t)) + 0.6 * rng.standard_normal(len(t))
        level = min(4, 0.5 + rng.pareto(2.5)) * np.exp(-t / 0.006)
        mix(puddles, rng.uniform(0, seconds), level * bubble, rate)
    near = high(near, rate, 500, 1)
    return hiss / hiss.std() + near / near.std() + 0.25 * puddles


def engine_idling(rate: int, rng: np.random.Generator) -> np.ndarray:
    """Fire four cylinders in turn at 850 revolutions a minute, each a little different, through an exhaust."""
    t = times(5, rate)
    cycle = np.cumsum(850 + 25 * wander(len(t), rate, 2, rng)) / 120 / rate  # four strokes are two revolutions
    stroke = np.floor(4 * cycle).astype(int)
    since = 4 * cycle - stroke
    strength = rng.uniform(0.75, 1.25, 4)[stroke % 4] * rng.uniform(0.85, 1.15, stroke.max() + 1)[stroke]
    pulse = strength * np.exp(-7 * since) * np.sin(3 * np.pi * since)
    pulse += 0.5 * rng.standard_normal(len(t)) * (np.exp(-4 * since) + 0.1)
    out = 0.8 * low(pulse, rate, 180)
    for hz, q, level in (
        (95, 2.4, 2),
        (210, 3, 1.2),
        (430, 3.6, 0.8),
        (900, 3, 0.5),
        (1900, 2.7, 0.35),
        (3600, 2.4, 0.2),
    ):
        out += level * resonate(pulse, rate, hz, q)
    valves = rng.standard_normal(len(t)) * np.exp(-12 * ((8 * cycle) % 1))
    out = room(np.tanh(1.2 * (out + 0.06 * band(valves, rate, 2000, 6000))), rate, rng, 0.3, 0.5)
    return out + 0.02 * coloured(len(t), rng, 0.5)


def helicopter(rate: int, rng: np.random.Generator) -> np.ndarray:
    """Beat the air 21 times a second, over the rumble of the turbine."""
    t = times(5, rate)
    turn = 21 * t + 0.3 * np.cumsum(wander(len(t), rate, 1, rng)) / rate
    blade = turn % 1 - 0.5
    air = low(rng.standard_normal(len(t)), rate, 600, 1) * (0.05 + np.exp(-((blade / 0.25) ** 2)))
    slap = np.exp(-((blade / 0.1) ** 2)) * np.sin(2 * np.pi * blade / 0.3)
    out = 3 * air + 0.5 * slap + 0.5 * low(coloured(len(t), rng, 1), rate, 300) + 0.1 * coloured(len(t), rng, 0.5)
    return room(out * (1 + 0.25 * wander(len(t), rate, 1, rng)), rate, rng, 0.8, 0.4)


def telephone(rate: int, rng: np.random.Generator) -> np.ndarray:
    """Ring twice with the two gongs of an old telephone, 25 strikes a second."""
    track = np.zeros(5 * rate)
    t = times(0.25, rate)
    partials = ((1, 1, 0.12), (1.98, 0.3, 0.1), (2.76, 0.8, 0.08), (5.4, 0.5, 0.05))
    for start in (0.1, 2.6):
        for k in range(40):
            gong = 0.4 * rng.standard_normal(len(t)) * np.exp(-t / 0.002)
            for ratio, strength, decay in partials:
                hz = (1130, 1420)[k % 2] * ratio
                gong += strength * np.sin(2 * np.pi * hz * t + rng.uniform(0, 2 * np.pi)) * np.exp(-t / decay)
            mix(track, start + k / 25 + rng.normal(0, 0.0006), rng.uniform(0.8, 1.1) * gong, rate)
    return room(track, rate, rng, 0.5, 0.25) + 0.004 * coloured(len(track), rng, 0.5)


def alarm_clock(rate: int, rng: np.random.Generator) -> np.ndarray:
    """Beep twice a second, as a digital alarm clock on a bedside table does."""
    t = times(4, rate)
    buzz = sum(np.sin(2 * np.pi * 1000 * k * t) / k for k in range(1, 14, 2))
    return room(buzz * low((t % 0.5 < 0.25) * 1.0, rate, 400, 1), rate, rng, 0.3, 0.15) + 0.02 * coloured(
        len(t), rng, 0.5
    )


def heartbeat(rate: int, rng: np.random.Generator) -> np.ndarray:
    """Beat 73 times a minute, lub and dub, as heard through a stethoscope."""
    track = np.zeros(int(4.1 * rate))
    t = times(0.2, rate)
    for k in range(5):
        lub = np.sin(2 * np.pi * (52 * t - 30 * t**2)) * np.exp(-t / 0.045) * (1 - np.exp(-t / 0.008))
        dub = np.sin(2 * np.pi * (68 * t - 40 * t**2)) * np.exp(-t / 0.03) * (1 - np.exp(-t / 0.006))
        mix(track, 0.1 + 0.82 * k, lub, rate)
        mix(track, 0.41 + 0.82 * k, 0.65 * dub, rate)
    track += 0.12 * low(rng.standard_normal(len(track)), rate, 150)
    return np.tanh(2 * track) + 0.003 * coloured(len(track), rng, 0.5)


def birdsong(rate: int, rng: np.random.Generator) -> np.ndarray:
    """Sing: four motifs of gliding whistles, repeated in a random order, outdoors."""
    motifs = []
    for _ in range(4):
        glides = 3600 * np.exp(rng.uniform(-0.05, 0.5, (rng.integers(1, 4), 3)))
        motifs.append([(glide, rng.uniform(0.06, 0.18), rng.uniform(0.02, 0.06)) for glide in glides])
    track = np.zeros(5 * rate)
    at = 0.3
    while at < 4.3:
        motif, loudness = motifs[rng.integers(4)], rng.uniform(0.6, 1)
        for _ in range(rng.integers(1, 5)):
            for glide, seconds, pause in motif:
                u = np.linspace(0, 1, int(seconds * rate))
                hz = rng.normal(1, 0.01) * CubicSpline((0, 0.5, 1), glide)(u)
                phase = 2 * np.pi * np.cumsum(hz) / rate
                whistle = (np.sin(phase) + 0.12 * np.sin(2 * phase)) * np.sin(np.pi * u) ** 0.6
                mix(track, at, loudness * whistle, rate)
                at += seconds + pause
        at += rng.uniform(0.3, 0.7)
    return room(track, rate, rng, 0.9, 0.35) + 0.02 * coloured(len(track), rng, 0.5)


def ocean_waves(rate: int, rng: np.random.Generator) -> np.ndarray:
    """Let two waves break on a beach: bands of noise that swell, the foam more than the roar."""
    t = times(6, rate)
    swell = 1.3 * np.sin(2 * np.pi * t / 3 - 1.2) + 0.4 * wander(len(t), rate, 0.8, rng)
    noise = rng.standard_normal(len(t))
    out = 0.6 * low(coloured(len(t), rng, 1), rate, 400)
    for hz, level in ((350, 1.0), (620, 0.6), (950, 0.35)):
        water = band(noise, rate, hz / 1.6, hz * 1.6, 1)
        out += level * water / water.std() * np.exp(0.5 * swell)
    return out * np.exp(0.3 * swell) + 0.01 * coloured(len(t), rng, 0.5)


def drum_loop(rate: int, rng: np.random.Generator) -> np.ndarray:
    """Play two bars of a drum machine in stereo: bass drum, snare and hi-hat at 112 beats a minute."""
    bars = int(8 * 60 / 112 * rate)
    left, right = np.zeros(bars), np.zeros(bars)
    t = times(0.4, rate)
    metal = sum(signal.square(2 * np.pi * hz * t) for hz in (2473, 3271, 4105, 5213, 6007))
    for k in range(16):
        at, step = 0.03 + k * 60 / 112 / 2, k % 8
        hat = high(rng.standard_normal(len(t)) + metal, rate, 5500, 4) * np.exp(-t / (0.2 if step == 7 else 0.035))
        hat *= 0.35 * rng.uniform(0.6, 1)
        mix(left, at, 0.6 * hat, rate)
        mix(right, at, hat, rate)
        hit = np.zeros(len(t))
        if step in (0, 3, 5):
            hit += np.sin(2 * np.pi * (48 * t + 2.7 * (1 - np.exp(-t / 0.03)))) * np.exp(-t / 0.12)
            hit += 0.3 * band(rng.standard_normal(len(t)), rate, 1000, 5000) * np.exp(-t / 0.004)
        if step in (2, 6):
            hit += 0.6 * np.sin(2 * np.pi * 190 * t) * np.exp(-t / 0.06)
            hit += 0.4 * np.sin(2 * np.pi * 330 * t) * np.exp(-t / 0.04)
            hit += 0.7 * high(rng.standard_normal(len(t)), rate, 1200) * np.exp(-t / 0.075)
        mix(left, at, hit, rate)
        mix(right, at, hit, rate)
    return np.stack([np.tanh(room(side, rate, rng, 0.35, 0.25)) for side in (left, right)], axis=1)


# -------------------------------------------------------------------------------------------------------------- files


class Recording(NamedTuple):
    """One file: its name, whose ending is its format, its sample rate, the seed and the function that makes it."""

    name: str
    rate: int
    seed: int
    make: Callable[[int, np.random.Generator], np.ndarray]


ENGLISH = "The train to the harbour leaves from platform two."
GERMAN = "Guten Abend. Morgen wird es sonnig und warm."

RECORDINGS = (
    Recording("alarm_clock.ogg", 32_000, 2, alarm_clock),
    Recording("birdsong.ogg", 44_100, 2, birdsong),
    Recording("church_bell.flac", 22_050, 4, church_bell),
    Recording("drum_loop.mp3", 48_000, 7, drum_loop),
    Recording("engine_idling.ogg", 32_000, 1, engine_idling),
    Recording("heartbeat.wav", 8_000, 7, heartbeat),
    Recording("helicopter.ogg", 32_000, 7, helicopter),
    Recording("ocean_waves.mp3", 44_100, 4, ocean_waves),
    Recording("police_siren.ogg", 32_000, 7, police_siren),
    Recording("rain.ogg", 32_000, 6, rain),
    Recording("speech_english.wav", 16_000, 7, partial(speech, voice="en-us+f3", text=ENGLISH)),
    Recording("speech_german.flac", 22_050, 7, partial(speech, voice="de+f2", text=GERMAN)),
    Recording("telephone.ogg", 32_000, 7, telephone),
)


def write(path: Path, sound: np.ndarray, rate: int) -> None:
    """Scale to a peak of 0.6, fade the ends over 20 ms and write in the format of the path's ending."""
    sound = sound * (0.6 / np.abs(sound).max())
    ramp = np.sin(np.linspace(0, np.pi / 2, int(0.02 * rate))) ** 2
    if sound.ndim == 2:
        ramp = ramp[:, None]
    sound[: len(ramp)] *= ramp
    sound[-len(ramp) :] *= ramp[::-1]
    kind = path.suffix[1:].upper()
    if kind == "OGG":
        sf.write(path, sound, rate, format=kind, subtype="VORBIS", compression_level=0.8)
    elif kind == "MP3":
        sf.write(path, sound, rate, format=kind, compression_level=0.8, bitrate_mode="VARIABLE")
    else:
        sf.write(path, sound, rate, format=kind, subtype="PCM_16")


def main() -> int:
    """Make every recording; the exit status is 1 when the speech could not be made."""
    parser = argparse.ArgumentParser(description="Make the example recordings.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "sounds", metavar="DIR")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    missing = 0
    for recording in RECORDINGS:
        path = out / recording.name
        try:
            sound = recording.make(recording.rate, np.random.default_rng(recording.seed))
        except NoSpeechError as error:
            print(f"{path}: not made: {error}", file=sys.stderr)
            missing = 1
            continue
        write(path, sound, recording.rate)
        print(f"{path}: {len(sound) / recording.rate:.1f} s, {recording.rate} Hz, {path.stat().st_size / 1000:.0f} kB")
    return missing


if __name__ == "__main__":
    sys.exit(main())
