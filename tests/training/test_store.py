"""The store's files: nothing half written is read, many may read and write, the limit holds."""

import json
import subprocess
import sys

import numpy as np
import pytest

from chiasm.core.errors import ConfigError
from chiasm.training.store import FLUSH, FeatureStore


def array(seed: int, shape: tuple[int, ...] = (2, 3)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def filled(folder, count=5, **settings) -> FeatureStore:
    store = FeatureStore(folder, {"tower": "a"}, **settings)
    for number in range(count):
        store.put(f"k{number}", array(number), [number, 7])
    return store


def test_what_is_put_is_got_before_and_after_a_flush_and_by_others(tmp_path):
    store = filled(tmp_path)
    other = FeatureStore(tmp_path, {"tower": "a"})
    assert len(store) == 5 and "k3" in store and len(other) == 0
    for _ in range(2):
        for number, found in enumerate(store.get([f"k{n}" for n in range(5)])):
            assert np.array_equal(found[0], array(number)) and found[1] == [number, 7]
        store.flush()
    assert np.array_equal(other.get(["k4", "k9"])[0][0], array(4)) and other.get(["k9"]) == [None]
    assert len(FeatureStore(tmp_path, {"tower": "b"})) == 0
    mixed = FeatureStore(tmp_path, {"tower": "a"})
    mixed.put("long", array(1, (40, 7)))
    mixed.close()
    assert store.get(["long"])[0][0].shape == (40, 7)


def test_half_precision_halves_the_room(tmp_path):
    sizes = []
    for dtype in ("float32", "float16"):
        store = filled(tmp_path / dtype, 3, dtype=dtype)
        store.flush()
        np.testing.assert_allclose(store.get(["k1"])[0][0], array(1), rtol=0 if dtype == "float32" else 1e-3)
        sizes.append(store.num_bytes)
    assert sizes[0] == 2 * sizes[1]
    with pytest.raises(ConfigError, match="store_dtype"):
        FeatureStore(tmp_path, {}, dtype="int8")


def test_a_torn_line_and_damaged_bytes_count_as_absent(tmp_path):
    filled(tmp_path).close()
    data, index = (next(tmp_path.glob(f"*/*.{kind}")) for kind in ("data", "index"))
    raw = index.read_bytes()
    index.write_bytes(raw[:-9])  # a crash in the middle of the last line
    told = []
    store = FeatureStore(tmp_path, {"tower": "a"}, tell=told.append)
    assert len(store) == 4 and store.get(["k4"]) == [None]
    with data.open("r+b") as file:
        file.seek(30)
        file.write(b"\xff\xff")
    found = store.get([f"k{n}" for n in range(4)])
    assert [each is None for each in found] == [False, True, False, False] and "damaged" in told[0]
    store.put("k1", array(1))
    store.put("k4", array(4))
    store.close()
    again = FeatureStore(tmp_path, {"tower": "a"})
    assert np.array_equal(again.get(["k4"])[0][0], array(4))


def test_a_killed_writer_leaves_only_whole_arrays(tmp_path):
    script = f"""
import os, numpy as np
from pathlib import Path
from chiasm.training.store import FeatureStore
store = FeatureStore(Path({str(tmp_path)!r}), {{"tower": "a"}})
for number in range(10 * {FLUSH} + 5):
    store.put(f"k{{number}}", np.full((50,), number, np.float32))
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    store = FeatureStore(tmp_path, {"tower": "a"})
    assert len(store) == 10 * FLUSH
    for number, found in enumerate(store.get([f"k{n}" for n in range(10 * FLUSH)])):
        assert (found[0] == number).all()


def test_many_processes_write_and_read_at_once(tmp_path):
    script = f"""
import sys, numpy as np
from pathlib import Path
from chiasm.training.store import FeatureStore
store = FeatureStore(Path({str(tmp_path)!r}), {{"tower": "a"}})
for number in range(300):
    key = f"k{{number % 150 + 100 * int(sys.argv[1])}}"
    found = store.get([key])[0]
    assert found is None or (found[0] == int(key[1:])).all()
    store.put(key, np.full((50,), int(key[1:]), np.float32))
store.close()
"""
    started = [subprocess.Popen([sys.executable, "-c", script, str(n)]) for n in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    store = FeatureStore(tmp_path, {"tower": "a"})
    assert len(store) == 350 and all(
        (found[0] == n).all() for n, found in enumerate(store.get([f"k{n}" for n in range(350)]))
    )


def test_the_limit_evicts_what_is_unused_and_then_stops(tmp_path):
    told = []
    old = FeatureStore(tmp_path, {"tower": "old"})
    old.put("a", array(0, (1000,)))
    old.close()
    used = FeatureStore(tmp_path, {"tower": "used"})
    used.put("a", array(0, (1000,)))
    used.flush()
    store = FeatureStore(tmp_path, {"tower": "a"}, limit_bytes=9000, tell=told.append)
    store.put("a", array(1, (1000,)))
    store.flush()
    assert store.num_bytes == 8000 and "old" not in str(
        [json.loads(p.read_text()) for p in tmp_path.glob("*/about.json")]
    )
    store.put("b", array(2, (1000,)))
    store.flush()
    assert store.full and "b" not in store and store.get(["a"])[0] is not None and used.get(["a"])[0] is not None
    assert "deleted" in told[0] and "8,000 of at most 9,000 bytes" in told[1]
