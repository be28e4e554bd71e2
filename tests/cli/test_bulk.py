"""Many pictures: folders are taken, and Ray's processes give what this process gives."""

import subprocess
import sys

import numpy as np
import pytest
import ray
from PIL import Image

import chiasm
from chiasm.cli import main
from chiasm.cli.bulk import ENGINES, Bulk
from chiasm.cli.caption import caption
from chiasm.cli.embed import embed
from chiasm.cli.options import Sampling
from chiasm.core.errors import ChiasmError


def run(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "chiasm", *words], capture_output=True, text=True, timeout=240)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bulk")
    (folder / "pictures" / "inner").mkdir(parents=True)
    for number in range(70):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        place = folder / "pictures" / ("inner" if number % 3 == 0 else "") / f"{number:02d}.png"
        Image.fromarray(pixels).save(place)
    chiasm.new("clip").save(folder / "clip")
    chiasm.new("llava").save(folder / "llava")
    return folder


@pytest.fixture(scope="module")
def cluster():
    """Two workers' worth of Ray on this machine, for all tests of this file."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def test_embed_on_ray_equals_embed_here(folder, cluster, tmp_path):
    for engine in ENGINES:
        pictures, out = (str(folder / "pictures"),), tmp_path / f"{engine}.npy"
        embed(str(folder / "clip"), image=pictures, out=out, bulk=Bulk(engine=engine))
    here, there = (np.load(tmp_path / f"{engine}.npy") for engine in ENGINES)
    assert here.shape == (70, 16)
    np.testing.assert_allclose(here, there, rtol=0, atol=1e-6)


def test_caption_on_ray_equals_caption_here_and_names_a_bad_picture(folder, cluster, capsys):
    pictures = sorted(str(path) for path in (folder / "pictures").glob("*.png"))[:10]
    for engine in ENGINES:
        caption(str(folder / "llava"), *pictures, sampling=Sampling(max_new_tokens=5), bulk=Bulk(engine=engine))
    lines = capsys.readouterr().out.splitlines()
    assert lines[: len(lines) // 2] == lines[len(lines) // 2 :] and lines[0].startswith(pictures[0])
    (folder / "bad.png").write_bytes(b"no picture")
    with pytest.raises(ChiasmError, match="picture_unknown_format"):
        caption(str(folder / "llava"), str(folder / "bad.png"), bulk=Bulk(engine="ray"))


def test_curate_on_ray_equals_curate_here(folder, cluster, tmp_path):
    chiasm.new("blip").save(folder / "blip")
    for number in range(20):
        (folder / "pictures" / f"{number:02d}.txt").write_text(f"a red cat {number}\n")
    for engine in ENGINES:
        command = ["curate", folder / "pictures", "--captioner", folder / "blip", "--filter", folder / "clip", "--out"]
        command += [tmp_path / engine, "--max-new-tokens", "4", "--threshold", "0.02", "--engine", engine]
        assert main([str(word) for word in command]) == 0
    here, there = (sorted(p for p in (tmp_path / engine).rglob("*") if p.is_file()) for engine in ENGINES)
    assert [path.name for path in here] == [path.name for path in there] and len(here) > 5
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(here, there, strict=True))


def test_mistakes_are_named(folder, tmp_path):
    assert "folder_no_pictures" in run("embed", str(folder / "clip"), "--image", str(tmp_path), code=1).stderr
    wrong = run("caption", str(folder / "clip"), str(folder / "pictures"), "--engine", "spark", code=2)
    assert "known are local and ray" in wrong.stderr
