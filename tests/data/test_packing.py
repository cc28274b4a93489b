import io
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from counterpoint.data import cache as keeping
from counterpoint.data import load, packing
from counterpoint.data.images import decode


@pytest.fixture
def photos(tmp_path):
    """Forty grey pictures; picture i has value i."""
    folder = tmp_path / "photos"
    for i in range(40):
        (folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), i).save(folder / "ab"[i % 2] / f"{i:02d}.png")
    return folder


def values(dataset):
    return {name: int(dataset[[i]]["image"].max()) for i, name in enumerate(dataset.ids)}


def test_sizes_and_channels_follow_the_images(tmp_path, photos):
    cache = tmp_path / "cache"
    assert load(photos, cache=cache).shape == (1, 8, 8)
    assert load(photos, cache=cache, channels=3).shape == (3, 8, 8)
    assert load(photos, cache=cache, image_size=16).shape == (1, 16, 16)
    assert load(photos, cache=cache, image_size=(4, 6)).shape == (1, 4, 6)
    Image.new("RGB", (8, 9)).save(photos / "other.png")
    assert load(photos, cache=cache).shape == (3, 64, 64)
    Image.new("RGB", (80, 80)).save(tmp_path / "alone.png")
    for bad in ({"image_size": 0}, {"channels": 2}, {"max_corrupt": 2}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            load(photos, cache=cache, **bad)


def test_large_equal_images_become_64(tmp_path):
    (tmp_path / "d").mkdir()
    for i in range(2):
        Image.new("RGB", (100, 80)).save(tmp_path / "d" / f"{i}.png")
    assert load(tmp_path / "d", cache=tmp_path / "cache").shape == (3, 64, 64)


def test_a_second_load_decodes_nothing_and_a_changed_folder_is_packed_anew(tmp_path, photos, monkeypatch):
    cache = tmp_path / "cache"
    first = values(load(photos, cache=cache))
    assert first == {f"{'ab'[i % 2]}/{i:02d}.png": i for i in range(40)}
    calls = []
    monkeypatch.setattr(packing, "decode", lambda *a, **k: calls.append(1) or decode(*a, **k))
    assert values(load(photos, cache=cache)) == first
    assert not calls
    Image.new("L", (8, 8), 200).save(photos / "a" / "00.png")
    os.utime(photos / "a" / "00.png", (1, 1))
    assert values(load(photos, cache=cache))["a/00.png"] == 200
    assert len(calls) == 40
    (photos / "b" / "01.png").unlink()
    assert len(load(photos, cache=cache)) == 39


def test_a_damaged_pack_is_made_anew(tmp_path, photos):
    cache = tmp_path / "cache"
    first = values(load(photos, cache=cache))
    packed = next(cache.glob("*/images.npy"))
    packed.write_bytes(packed.read_bytes()[:-100])
    assert values(load(photos, cache=cache)) == first


def test_corrupt_images_are_skipped_counted_and_listed(tmp_path, photos):
    (photos / "a" / "04.png").write_bytes((photos / "a" / "04.png").read_bytes()[:50])
    (photos / "b" / "05.png").write_bytes(b"not an image")
    for _ in range(2):  # packed, then found packed
        dataset = load(photos, cache=tmp_path / "cache", max_corrupt=0.05)
        assert [name for name, _ in dataset.skipped] == ["a/04.png", "b/05.png"]
        assert all(reason for _, reason in dataset.skipped)
        assert len(dataset) == len(dataset.ids) == len(dataset.labels) == 38
        assert values(dataset) == {f"{'ab'[i % 2]}/{i:02d}.png": i for i in range(40) if i not in (4, 5)}
        assert all(dataset.classes[label] == name[0] for label, name in zip(dataset.labels, dataset.ids, strict=True))
    with pytest.raises(ValueError, match=r"2 of the 40 images.*max_corrupt.*a/04\.png"):
        load(photos, cache=tmp_path / "cache", max_corrupt=0.025)
    with pytest.raises(ValueError, match="max_corrupt"):
        load(photos, cache=tmp_path / "new")
    assert not list((tmp_path / "new").glob("*/*.npy")), "a refused source leaves no remains"


def test_all_corrupt_is_refused_even_if_allowed(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "1.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="1 of the 1 images"):
        load(tmp_path / "d", cache=tmp_path / "cache", max_corrupt=1.0)


def test_an_exception_midway_leaves_nothing_and_the_next_call_starts_over(tmp_path, photos, monkeypatch):
    cache = tmp_path / "cache"
    real = packing.write_rows

    def interrupted(file, blocks, *rest):
        def some():
            yield from (next(blocks) for _ in range(7))
            raise KeyboardInterrupt

        return real(file, some(), *rest)

    monkeypatch.setattr(packing, "write_rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(photos, cache=cache)
    assert {p.name for p in cache.glob("*/*")} <= {".lock"}
    monkeypatch.undo()
    assert len(load(photos, cache=cache)) == 40


_SLOW = """
import sys, time
from counterpoint.data import load, packing
from counterpoint.data.images import decode
from counterpoint.data.images import decode
def slow(item, size, channels):
    time.sleep(float(sys.argv[3]))
    return decode(item, size, channels)
packing.decode = slow
packing._CHUNK = 4
dataset = load(sys.argv[1], cache=sys.argv[2])
print(len(dataset), int(dataset[[39]]["image"].max()))
"""


def start(photos, cache, delay):
    return subprocess.Popen(
        [sys.executable, "-c", _SLOW, str(photos), str(cache), str(delay)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_packing_counts_as_none(tmp_path, photos):
    cache = tmp_path / "cache"
    process = start(photos, cache, 0.2)
    deadline = time.time() + 60
    while not list(cache.glob("*/.images.npy.*.part")):
        assert time.time() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(cache.glob("*/images.npy"))
    assert list(cache.glob("*/.images.npy.*.part")), "the kill came half-way"
    dataset = load(photos, cache=cache)
    assert len(dataset) == 40
    assert not list(cache.glob("*/.*.part")), "what the killed process left is cleared"


def test_two_processes_pack_once(tmp_path, photos):
    both = [start(photos, tmp_path / "cache", 0.02) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=60)
        assert out.split() == ["40", "39"], err
    assert len(list((tmp_path / "cache").glob("*/images.npy"))) == 1


def test_no_room_is_said_before_anything_is_written(tmp_path, photos, monkeypatch):
    monkeypatch.setattr(keeping.shutil, "disk_usage", lambda _: type("usage", (), {"free": 1000})())
    with pytest.raises(OSError, match=r"cache: the disk of .* left, but .* needed.*cache="):
        load(photos, cache=tmp_path / "cache")
    assert {p.name for p in (tmp_path / "cache").glob("*/*")} <= {".lock"}


def test_a_disk_that_fills_up_leaves_no_remains(tmp_path, photos):
    code = (
        "import resource, sys\n"
        "from counterpoint.data import load\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try:\n    load(sys.argv[1], cache=sys.argv[2], image_size=64)\n"
        "except OSError as error:\n    print(error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(photos), str(tmp_path / "cache")], capture_output=True, text=True, check=False
    )
    assert "cache: the disk of" in ran.stdout, ran.stderr
    assert {p.name for p in (tmp_path / "cache").glob("*/*")} <= {".lock"}


def test_a_cache_that_cannot_be_written_is_named(tmp_path, photos):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cache: cannot write"):
        load(photos, cache=tmp_path / "file" / "cache")


def test_a_packed_dataset_pickles_to_almost_nothing(tmp_path, photos):
    dataset = load(photos, cache=tmp_path / "cache")
    copy = pickle.loads(pickle.dumps(dataset))
    assert values(copy) == values(dataset)
    dataset.labels = None
    assert len(pickle.dumps(dataset)) < 2000


def test_names_of_a_million_rows_do_not_grow_the_header():
    file = io.BytesIO()
    blocks = (np.zeros((1, 2), np.uint8) for _ in range(100_000))
    assert packing.write_rows(file, blocks, (2,), np.dtype(np.uint8)) == 100_000
    file.seek(0)
    assert np.load(file).shape == (100_000, 2)
