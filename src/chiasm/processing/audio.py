"""Sounds: WAV files to log-mel spectrograms, as Kaldi computes them and ImageBind reads them (Girdhar et al. 2023, §4).

Frames of 25 ms every 10 ms, their mean taken away, pre-emphasis 0.97, a Hann window, the power spectrum of 512
points, 128 triangular mel bands from 20 Hz to half the rate, the logarithm. A sound becomes clips of two seconds,
spread evenly.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chiasm.core.errors import DataError
from chiasm.core.media import LazySound

if TYPE_CHECKING:
    import torch

RATE, BANDS, FRAMES, CLIPS, SECONDS = 16000, 128, 204, 3, 2
MEAN, STD = -4.268, 9.138  # of AudioSet's spectrograms
_WINDOW, _SHIFT, _POINTS, _LOWEST = 400, 160, 512, 20.0
_EPSILON = float(np.finfo(np.float32).eps)


def read_sound(source: Any, rate: int | None = None) -> np.ndarray:
    """A sound at 16 kHz.

    Args:
        source: a WAV file's path or bytes, a `LazySound`, or an array of samples (−1..1), (n,) or (channels, n).
        rate: samples a second of an array.

    Returns:
        (n,) float32, channels averaged.

    Raises:
        DataError: ``audio_rate`` for an array without a rate, ``audio_missing``, ``audio_unreadable``, ``audio_empty``.
    """
    if isinstance(source, np.ndarray):
        if rate is None or rate < 1:
            raise DataError("audio_rate", f"{source.size} samples at {rate or 'an unknown'} rate", hint="rate=16000")
        samples = source.astype(np.float32)
        samples = samples.mean(0) if samples.ndim == 2 else samples
    else:
        samples, rate = _read_wav(source.wav() if isinstance(source, LazySound) else source)
    if samples.size == 0:
        raise DataError("audio_empty", "the sound has 0 samples, at least 1 is needed")
    return resample(samples, rate, RATE)


def _read_wav(source: Any) -> tuple[np.ndarray, int]:
    if not isinstance(source, (bytes, bytearray)) and not Path(source).is_file():
        raise DataError("audio_missing", f"{source} is not a file")
    try:
        stream: Any = io.BytesIO(source) if isinstance(source, (bytes, bytearray)) else str(source)
        with wave.open(stream) as file:
            rate, width, channels = file.getframerate(), file.getsampwidth(), file.getnchannels()
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise DataError("audio_unreadable", f"not a PCM WAV file: {error}", hint="ffmpeg -i SOUND out.wav") from None
    data = data[: len(data) // (width * channels) * width * channels]
    if width == 1:
        levels = np.frombuffer(data, np.uint8).astype(np.float32) / 128 - 1
    elif width == 3:
        bytes_ = np.frombuffer(data, np.uint8).reshape(-1, 3).astype(np.int32)
        levels = ((bytes_[:, 0] | bytes_[:, 1] << 8 | bytes_[:, 2] << 16) << 8 >> 8).astype(np.float32) / 2**23
    else:
        levels = np.frombuffer(data, f"<i{width}").astype(np.float32) / 2.0 ** (8 * width - 1)
    if rate < 1:
        raise DataError("audio_rate", f"the WAV file says {rate} samples a second, at least 1 is needed")
    return levels.reshape(-1, channels).mean(1), rate


def resample(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Change the rate by a windowed sinc of six zero crossings, cut off just below half the lower rate."""
    if rate == wanted:
        return samples
    cut = min(rate, wanted) * 0.99
    reach = int(np.ceil(6 * rate / cut))
    count = int(np.ceil(len(samples) * wanted / rate))
    places = np.arange(count) * (rate / wanted)  # in the source's samples
    padded = np.pad(samples.astype(np.float64), (reach, reach + 1))
    out = np.zeros(count)
    base = np.floor(places).astype(np.int64)
    for offset in range(-reach + 1, reach + 1):
        distance = (base + offset - places) * cut / rate
        window = np.cos(np.clip(distance / 6, -1, 1) * np.pi / 2) ** 2
        out += padded[base + offset + reach] * np.sinc(distance) * window * (cut / rate)
    return out.astype(np.float32)


def mel(samples: np.ndarray) -> np.ndarray:
    """The log-mel spectrogram of (n,) samples at 16 kHz: (bands, frames); a sound shorter than a frame is refused.

    Raises:
        DataError: ``audio_short``.
    """
    if len(samples) < _WINDOW:
        raise DataError("audio_short", f"the sound has {len(samples)} samples, one frame needs {_WINDOW}")
    samples = samples.astype(np.float64) - samples.mean(dtype=np.float64)
    count = 1 + (len(samples) - _WINDOW) // _SHIFT
    frames = np.stack([samples[at * _SHIFT : at * _SHIFT + _WINDOW] for at in range(count)])
    frames -= frames.mean(1, keepdims=True)
    frames = frames - 0.97 * np.concatenate((frames[:, :1], frames[:, :-1]), 1)
    frames *= 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / (_WINDOW - 1))
    power = np.abs(np.fft.rfft(frames, _POINTS)) ** 2  # (frames, points / 2 + 1)
    energy = power[:, : _POINTS // 2] @ _filters().T
    return np.log(np.maximum(energy, _EPSILON)).T.astype(np.float32)


def _filters() -> np.ndarray:
    """(bands, points / 2) triangles, evenly spaced in mel, 1127·ln(1 + f / 700)."""
    low, high = (1127 * np.log(1 + f / 700) for f in (_LOWEST, RATE / 2))
    step = (high - low) / (BANDS + 1)
    bins = 1127 * np.log(1 + np.arange(_POINTS // 2) * RATE / _POINTS / 700)
    left = low + step * np.arange(BANDS)[:, None]
    return np.maximum(0, np.minimum((bins - left) / step, (left + 2 * step - bins) / step))


def spectrograms(
    sounds: Sequence[Any], rate: int | None = None, *, bands: int = BANDS, frames: int = FRAMES
) -> torch.Tensor:
    """Clips of sounds as ImageBind's audio tower reads them.

    Args:
        sounds: see `read_sound`.
        rate: of arrays.
        bands, frames: what a clip is cut or padded to.

    Returns:
        (N, clips, 1, bands, frames) float32, normalised.

    Raises:
        DataError: see `read_sound`; the sound is named by its position.
    """
    import torch

    rows = []
    for index, source in enumerate(sounds):
        try:
            samples = read_sound(source, rate)
            length = min(len(samples), SECONDS * RATE)
            starts = np.linspace(0, len(samples) - length, CLIPS).astype(int)
            rows.append(np.stack([_fit(mel(samples[at : at + length]), bands, frames) for at in starts]))
        except DataError as error:
            raise DataError(error.code, f"sound {index}: {error.what}", hint=error.hint) from None
    return torch.from_numpy(np.stack(rows))[:, :, None]


def _fit(spectrogram: np.ndarray, bands: int, frames: int) -> np.ndarray:
    shown = spectrogram[:bands, :frames]
    shown = np.pad(shown, ((0, bands - shown.shape[0]), (0, frames - shown.shape[1])))
    return ((shown - MEAN) / STD).astype(np.float32)
