"""Sounds of scenes: every name has a call of its own, invented and the same in all scenes, and things call in turn.

A call is a pitch that glides, with overtones, repeated: all of it follows from the name's hash. In a scene each thing
calls at moments of its own, a little higher or lower than the last time, over faint noise. So what is seen can be
heard, and nothing but the name decides how it sounds.
"""

from __future__ import annotations

import io
import wave
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

RATE = 16000
SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Call:
    """How a name sounds.

    Attributes:
        hertz: where its pitch begins.
        glide: octaves that it moves while it sounds.
        length: seconds of one cry.
        cries: how often it cries in a call.
        overtones: amplitudes of the second and third partial.
    """

    hertz: float
    glide: float
    length: float
    cries: int
    overtones: tuple[float, float]


def call_of(name: str) -> Call:
    """The call of a name."""
    raw = np.frombuffer(sha256(f"call {name}".encode()).digest()[:10], ">u2") / 65536
    return Call(
        hertz=float(200 * 2 ** (4 * raw[0])),
        glide=float(2 * raw[1] - 1),
        length=float(0.08 + 0.2 * raw[2]),
        cries=1 + int(3 * raw[3]),
        overtones=(float(raw[4]), float(1 - raw[4])),
    )


@dataclass(frozen=True, slots=True)
class SceneSound:
    """A `LazySound`: what a scene's things sound like.

    Attributes:
        names: of the things.
        seed: of moments and noise.
    """

    names: tuple[str, ...]
    seed: int

    @property
    def fingerprint(self) -> str:
        """Equal for equal sounds."""
        return sha256(repr((self.names, self.seed)).encode()).hexdigest()[:40]

    def wav(self) -> bytes:
        """Two seconds, mono, 16 bits, 16 kHz."""
        rng = np.random.default_rng(self.seed)
        samples = 0.003 * rng.standard_normal(int(RATE * SECONDS))
        for name in self.names:
            call = call_of(name)
            whole = 1.25 * call.length * call.cries
            begin, bend = rng.uniform(0, SECONDS - whole), rng.uniform(-0.04, 0.04)
            for cry in range(call.cries):
                sound = _cry(call, bend)
                at = int(RATE * (begin + 1.25 * call.length * cry))
                samples[at : at + len(sound)] += sound[: len(samples) - at]
        levels = (np.clip(samples, -1, 1) * 32767).astype("<i2")
        file = io.BytesIO()
        with wave.open(file, "wb") as out:
            out.setparams((1, 2, RATE, len(levels), "NONE", "not compressed"))
            out.writeframes(levels.tobytes())
        return file.getvalue()


def _cry(call: Call, bend: float) -> np.ndarray:
    """(n,) samples of one cry, `bend` octaves higher."""
    count = int(RATE * call.length)
    share = np.arange(count) / count
    phase = 2 * np.pi * np.cumsum(call.hertz * 2 ** (bend + call.glide * share)) / RATE
    tone = np.sin(phase) + sum(a * np.sin((k + 2) * phase) for k, a in enumerate(call.overtones))
    return np.asarray(0.2 * tone * np.sin(np.pi * share) ** 2)
