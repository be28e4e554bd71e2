"""Videos: true times, samplings, lazy decoding, refusals; and models that watch them."""

from __future__ import annotations

import resource
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

import chiasm
from chiasm.core.errors import ChiasmError
from chiasm.processing.packed_processor import PackedImageProcessor
from chiasm.processing.video import FpsSampling, KeyframeSampling, UniformSampling, read_frames


def frame(index: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """A grey level a frame: which frame a picture is can be read off it."""
    return np.full((size[1], size[0], 3), 10 + 5 * (index % 48), np.uint8)


def film(path, count: int = 48, rate: int = 24, times: list[int] | None = None, size: tuple[int, int] = (64, 48)):
    """Frame `i` is shown at times[i] / rate seconds."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.gop_size = 12
        stream.codec_context.bit_rate = 8_000_000
        stream.options = {"qmin": "1", "qmax": "1", "sc_threshold": "1000000000"}
        stream.codec_context.time_base = Fraction(1, rate)
        for index in range(count):
            picture = av.VideoFrame.from_ndarray(frame(index, size), format="rgb24")
            picture.pts = times[index] if times else index
            picture.time_base = Fraction(1, rate)
            out.mux(stream.encode(picture))
        out.mux(stream.encode())
    return path


def shown(picture: Image.Image) -> int:
    return round((np.asarray(picture).mean() - 10) / 5)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return film(tmp_path_factory.mktemp("film") / "plain.mp4")


def test_every_sampling_gives_frames_with_their_seconds(plain) -> None:
    for sampling, expected in (
        (UniformSampling(frames=4), [6, 18, 30, 42]),
        (FpsSampling(fps=2.0), [0, 12, 24, 36]),
        (KeyframeSampling(), [0, 12, 24, 36]),
        (KeyframeSampling(max_frames=2), [0, 24]),
        (UniformSampling(frames=100), list(range(48))),
    ):
        frames = read_frames(plain, sampling)
        assert frames.size == (64, 48) and len(frames) == len(expected)
        assert frames.seconds == pytest.approx([at / 24 for at in expected], abs=1e-4)
        assert [shown(picture) for picture in frames] == expected
        assert [shown(picture) for picture in frames] == expected  # as often as one likes
    assert read_frames(plain, UniformSampling(), fps=4.0).fps == pytest.approx(4.0, abs=0.1)


def test_times_are_the_file_s_own_not_counted(tmp_path) -> None:
    times = [0, 1, 2, 3, 40, 41, 42, 43, 90, 91, 92, 93]
    path = film(tmp_path / "uneven.mkv", count=12, rate=10, times=times)
    frames = read_frames(path, UniformSampling(frames=12))
    assert frames.seconds == pytest.approx([t / 10 for t in times], abs=2e-3)
    assert [shown(picture) for picture in frames] == list(range(12))


def test_pictures_and_films_without_a_file() -> None:
    pictures = [Image.fromarray(frame(i)) for i in range(5)]
    frames = read_frames(pictures, UniformSampling(frames=2), fps=2.0)
    assert len(frames) == 5 and frames.seconds == (0.0, 0.5, 1.0, 1.5, 2.0)  # sampled already, taken whole

    class Drawn:
        fingerprint, duration, fps = "x", 10.0, 8.0

        def frame(self, seconds: float) -> Image.Image:
            return Image.fromarray(frame(int(seconds)))

    frames = read_frames(Drawn(), FpsSampling(fps=1.0, multiple=1))
    assert len(frames) == 10 and [shown(picture) for picture in frames] == list(range(10))


def test_refusals(tmp_path, plain) -> None:
    def refused(code: str, source, **options) -> None:
        with pytest.raises(ChiasmError, match=code):
            list(read_frames(source, UniformSampling(), **options))

    refused("video_missing", tmp_path / "none.mp4")
    (tmp_path / "noise.mp4").write_bytes(b"\x00\x01" * 5000)
    refused("video_unreadable", tmp_path / "noise.mp4")
    refused("video_empty", [])
    refused("video_ragged", [Image.new("RGB", (4, 4)), Image.new("RGB", (5, 4))])
    refused("video_fps", [Image.new("RGB", (4, 4))], fps=0.0)
    refused("video_source_unknown", 7)
    with av.open(str(tmp_path / "sound.mp4"), "w") as out:
        stream = out.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate, sound.pts = 8000, 0
        out.mux(stream.encode(sound))
        out.mux(stream.encode())
    refused("video_empty", tmp_path / "sound.mp4")
    whole = plain.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    refused("video_(unreadable|truncated|empty)", tmp_path / "cut.mp4")


def test_broken_times_are_refused(monkeypatch, plain) -> None:
    from chiasm.processing import video

    class Packet:
        size, is_keyframe = 5, True

        def __init__(self, pts):
            self.pts = pts

    class Stream:
        width, height, time_base = 8, 8, Fraction(1, 10)

    class Container:
        def __init__(self, times):
            self.times = times
            self.streams = type("S", (), {"video": [Stream()]})()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return False

        def demux(self, stream):
            return [Packet(pts) for pts in self.times]

    for times, told in (([0, None, 2], "1 of 3 frames have no timestamp"), ([0, 1, 1], "1 of 3 frames share")):
        fake = type("AV", (), {"open": staticmethod(lambda path, times=times: Container(times)), "error": av.error})
        monkeypatch.setattr(video, "_pyav", lambda fake=fake: fake)
        with pytest.raises(ChiasmError, match=f"video_timestamps.*{told}"):
            read_frames(plain, UniformSampling())


def talk(source, **more) -> list[dict]:
    video = {"type": "video", "video": str(source), **more}
    return [{"role": "user", "content": [video, {"type": "text", "text": "what happens?"}]}]


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "internvl"])
def test_models_watch_a_file(family, plain) -> None:
    model = chiasm.new(family)
    seen = model.inspect(talk(plain, fps=2.0))
    if family == "internvl":
        assert len(seen.plans) == 4 and "Frame4: " in seen.prompt
    else:
        (plan,) = seen.plans
        assert plan.is_video and plan.steps == 2 and plan.seconds == pytest.approx([0, 0.5, 1, 1.5], abs=1e-3)
        assert plan.step_seconds == pytest.approx(1.0, abs=1e-3) and len(seen.crops[0]) == 4
    assert model.generate(talk(plain), max_new_tokens=3)[0].usage.image_tokens > 0


def test_a_model_without_video_says_so(plain) -> None:
    for family in ("llava", "kimi_vl", "molmo"):
        with pytest.raises(ChiasmError, match="video_unsupported.*message 0, part 0"):
            chiasm.new(family).generate(talk(plain))


def test_a_broken_video_is_named_by_its_place(tmp_path) -> None:
    with pytest.raises(ChiasmError, match="video_missing.*message 0, part 0"):
        chiasm.new("qwen2_vl").generate(talk(tmp_path / "none.mp4"))


def test_frames_of_cogvlm2_video_are_followed_by_their_second(plain) -> None:
    from dataclasses import replace

    from chiasm.models.assembly import Parts
    from chiasm.models.cogvlm import processor, tiny

    config, one = tiny()
    many = processor(replace(config, video_frames=3), Parts(one.tokenizer, template=one.template))
    batch = many(talk(plain))
    assert len(batch.plans) == 3
    assert "0<image ×18>" not in batch.prompts[0] and batch.prompts[0].count("<image ×18>") == 3


def test_an_hour_at_one_frame_a_second_stays_small() -> None:
    class Hour:
        fingerprint, duration, fps = "hour", 3600.0, 1.0
        drawn = 0

        def frame(self, seconds: float) -> Image.Image:
            Hour.drawn += 1
            return Image.new("RGB", (160, 90), (int(seconds) % 256, 0, 0))

    ours = PackedImageProcessor.from_settings(
        {"image_processor_type": "Qwen2VLImageProcessor"}, {"min_pixels": 4 * 784, "max_pixels": 6 * 784}
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    frames = read_frames(Hour(), FpsSampling(fps=1.0, max_frames=3600))
    pixels, (plan,) = ours.pixels([frames])
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert len(frames) == 3600 and plan.steps == 1800 and Hour.drawn == 3601
    assert len(pixels) == plan.num_tokens * 4 and grown <= 300, grown
