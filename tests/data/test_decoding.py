import os
from pathlib import Path

import numpy as np
import pytest
from image_trees import picture, write_tree
from PIL import Image

from letkd_keras.data import load_image_folder
from letkd_keras.data.decoding import decode, decode_all


@pytest.mark.parametrize("skip_corrupt", [True, False])
def test_cache_is_written_once_and_gives_the_same(skip_corrupt, tmp_path):
    tree, cache = write_tree(tmp_path / "tree"), tmp_path / "cache"
    plain = load_image_folder(tree, 8)
    if skip_corrupt:
        (tree / "ant" / "7.png").write_bytes(b"x")
        plain = load_image_folder(tree, 8, skip_corrupt=True)
    options = {"image_cache": cache, "skip_corrupt": skip_corrupt}
    first = load_image_folder(tree, 8, **options)
    written = {file: file.stat().st_mtime_ns for file in cache.iterdir()}
    again = load_image_folder(tree, 8, **options)
    assert written == {file: file.stat().st_mtime_ns for file in cache.iterdir()}
    assert isinstance(again.x_train, np.memmap)
    for data in (first, again):
        for part in ("x_train", "y_train", "x_test", "y_test"):
            np.testing.assert_array_equal(getattr(data, part), getattr(plain, part))
    if skip_corrupt:  # a cache that was made with skip_corrupt does not hide damaged files
        with pytest.raises(ValueError, match=r"7\.png"):
            load_image_folder(tree, 8, image_cache=cache)


def test_cache_of_files_whose_names_are_not_utf_8(tmp_path):
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    Image.new("RGB", (8, 8)).save(tmp_path / "cafe.png")
    (tmp_path / "cafe.png").rename(file)
    assert decode_all([file], 8, cache=tmp_path / "cache")[0].shape == (1, 8, 8, 3)


@pytest.mark.parametrize("cache", ["a.png", "a.png/below"])
def test_a_cache_that_is_no_folder_is_refused_by_the_name_of_the_argument(tmp_path, cache):
    file = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(file)
    before = file.read_bytes()
    with pytest.raises(ValueError, match="`image_cache` must be a folder that can be written"):
        decode_all([file], 8, cache=tmp_path / cache)
    assert file.read_bytes() == before


def test_cache_of_changed_files_is_made_anew(tmp_path):
    file = tmp_path / "x.png"
    picture((10, 10, 10)).save(file)
    first, _ = decode_all([file], 8, cache=tmp_path / "cache")
    assert first.mean() < 20
    picture((200, 200, 200), seed=1).save(file)
    os.utime(file, ns=(1, 1))
    second, _ = decode_all([file], 8, cache=tmp_path / "cache")
    assert second.mean() > 190


def test_cache_of_other_files_at_the_same_relative_path_is_another_one(tmp_path, monkeypatch):
    means = []
    for folder, color in (("a", (10, 10, 10)), ("b", (200, 200, 200))):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        picture(color).save("x.bmp")  # of the same size, whatever its pixels are
        os.utime("x.bmp", ns=(1, 1))
        means.append(decode_all(["x.bmp"], 8, cache=tmp_path / "cache")[0].mean())
    assert means[0] < 20 and means[1] > 190


def test_interrupted_cache_leaves_nothing_that_looks_finished(tmp_path):
    file = tmp_path / "x.png"
    file.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"x\.png"):
        decode_all([file], 8, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_a_killed_process_left_of_a_cache_is_removed(tmp_path, monkeypatch):
    file, cache = tmp_path / "a.png", tmp_path / "cache"
    picture((1, 2, 3), (9, 9)).save(file)

    def killed(*_):
        os._exit(7)

    if (child := os.fork()) == 0:
        monkeypatch.setattr("letkd_keras.data.decoding._decode_into", killed)
        decode_all([file], 8, cache=cache)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert len(list(cache.iterdir())) == 1
    images, _ = decode_all([file], 8, cache=cache)
    np.testing.assert_array_equal(images, decode_all([file], 8)[0])
    assert len(list(cache.iterdir())) == 2  # the images, and which files they are of


def test_room_for_the_cache_is_reserved_first(tmp_path, monkeypatch):
    file = tmp_path / "x.png"
    picture((10, 10, 10)).save(file)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(
        OSError, match=r"needs 192 bytes .*; 100 are free. Use another folder as im"
    ):
        decode_all([file], 8, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_images_that_do_not_fit_into_the_memory_are_refused(tmp_path, monkeypatch):
    tree = write_tree(tmp_path / "tree")
    monkeypatch.setattr("letkd_keras.memory_mapped.physical_memory", lambda: 10_000)
    expected = r"12 images of 64x64 need 147,456 bytes of memory; there are 10,000\. .*image_cache"
    with pytest.raises(ValueError, match=expected):
        load_image_folder(tree, 64)
    load_image_folder(tree, 64, image_cache=tmp_path / "cache")


def test_damaged_cache_is_named(tmp_path):
    file = tmp_path / "x.png"
    picture((10, 10, 10)).save(file)
    decode_all([file], 8, cache=tmp_path / "cache")
    cached = next(path for path in (tmp_path / "cache").iterdir() if "kept" not in path.name)
    cached.write_bytes(cached.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"image cache .* is damaged .*Remove it") as error:
        decode_all([file], 8, cache=tmp_path / "cache")
    assert str(cached) in str(error.value)


# 8 x 8 images in Pillow's modes, and the red, green, blue expected
MODES = {
    "grey": (Image.new("L", (8, 8), 100), (100, 100, 100)),
    "black and white": (Image.new("1", (8, 8), 1), (255, 255, 255)),
    "grey, half transparent": (Image.new("LA", (8, 8), (0, 127)), (128, 128, 128)),
    "opaque": (Image.new("RGBA", (8, 8), (10, 20, 30, 255)), (10, 20, 30)),
    # what is hidden below full transparency does not show: the page is white
    "transparent": (Image.new("RGBA", (8, 8), (10, 20, 30, 0)), (255, 255, 255)),
    "half transparent": (Image.new("RGBA", (8, 8), (0, 100, 200, 127)), (128, 178, 228)),
    "palette": (Image.new("RGB", (8, 8), (10, 200, 30)).quantize(4), (10, 200, 30)),
}


@pytest.mark.parametrize("mode", MODES)
def test_modes_become_rgb(mode, tmp_path):
    image, expected = MODES[mode]
    image.save(tmp_path / "x.png")
    decoded = decode(tmp_path / "x.png", 8)
    assert decoded.shape == (8, 8, 3) and decoded.dtype == np.uint8
    np.testing.assert_allclose(decoded, np.broadcast_to(expected, (8, 8, 3)), atol=1)


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    Image.new("CMYK", (16, 16), (255, 0, 0, 0)).save(tmp_path / "x.jpg")
    np.testing.assert_allclose(decode(tmp_path / "x.jpg", 8)[4, 4], (0, 255, 255), atol=6)


@pytest.mark.parametrize("kind, match", [("float32", "floating-point"), ("int32", "32-bit")])
def test_images_of_other_numbers_are_refused(kind, match, tmp_path):
    Image.fromarray(np.full((8, 8), 200, kind)).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match=rf"x\.tif.*: {match}.* images are not supported"):
        decode(tmp_path / "x.tif", 8)


@pytest.mark.parametrize("suffix", [".tif", ".ppm", ".png"])
def test_the_upper_half_of_16_bits_is_kept(suffix, tmp_path):
    image = Image.fromarray(np.full((8, 8), 100 * 256 + 200, "uint16"))
    image.save(tmp_path / f"x{suffix}")
    np.testing.assert_array_equal(decode(tmp_path / f"x{suffix}", 8), np.full((8, 8, 3), 100))


def test_centre_of_the_resized_image(tmp_path):
    # 40 x 20: black outside the middle 20 x 20
    pixels = np.zeros((20, 40, 3), "uint8")
    pixels[:, 10:30] = 200
    Image.fromarray(pixels).save(tmp_path / "x.png")
    np.testing.assert_array_equal(decode(tmp_path / "x.png", 20), np.full((20, 20, 3), 200))
    half = decode(tmp_path / "x.png", 10)
    assert half.shape == (10, 10, 3) and (half[:, 1:-1] == 200).all()


def test_the_whole_of_an_oblong_image_is_not_enlarged(tmp_path, monkeypatch):
    pixels = np.zeros((1, 30001, 3), "uint8")
    pixels[:, 14999:15002] = (10, 20, 30)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    resized, resize = [], Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *a: resized.append(size) or resize(self, size, *a)
    )
    decoded = decode(tmp_path / "x.png", 8)
    assert resized == [(8, 8)]
    np.testing.assert_array_equal(decoded, np.broadcast_to((10, 20, 30), (8, 8, 3)))


@pytest.mark.parametrize("size", [(170, 8), (8, 170), (801, 40)])
def test_an_oblong_image_is_cropped_like_others(size, tmp_path, monkeypatch):
    picture((99, 150, 200), size).save(tmp_path / "x.png")
    cropped = decode(tmp_path / "x.png", 16)
    monkeypatch.setattr("letkd_keras.data.decoding._OBLONG", 1000)
    np.testing.assert_allclose(cropped, decode(tmp_path / "x.png", 16).astype(int), atol=1)


def test_orientation_of_a_camera_is_followed(tmp_path):
    pixels = np.zeros((8, 8, 3), "uint8")
    pixels[:4] = 255  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    decoded = decode(tmp_path / "x.png", 8)
    assert (decoded[:4] == 0).all() and (decoded[4:] == 255).all()
