"""Image files decoded to arrays of one size."""

import hashlib
import logging
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from letkd_keras import memory_mapped
from letkd_keras.files import atomic_path, check_writable, open_atomic

log = logging.getLogger(__name__)

# What Pillow raises for damaged files; it depends on the format and on the kind of damage.
_DAMAGED = (OSError, SyntaxError, ValueError, RuntimeError, EOFError, struct.error, zlib.error)
# Beyond this ratio of the sides, only the part of an image that is kept is enlarged.
_OBLONG = 20
_NO_ROOM = "Use another folder as image cache, or none."


def decode(file, size):
    """Decode an image file to an RGB array of `size` by `size` pixels.

    The image is rotated according to its EXIF orientation. Its shorter side is resized to `size`
    (bilinear, antialiased), and the center is cropped. Grayscale becomes three equal channels, 16
    bits become 8, CMYK and palettes are converted. Transparent parts show a white background. The
    first frame of an animation is used.

    Args:
        file: Path of a file in any format that Pillow reads.
        size: Height and width.

    Returns:
        uint8 [size, size, 3].

    Raises:
        ValueError: If the file is damaged or not an image; it is named.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            image.draft("RGB", (size, size))  # decode a JPEG at a smaller scale where it is enough
            _check_mode(image)
            image = _rgb(ImageOps.exif_transpose(image))
            scale = size / min(image.size)
            width, height = (round(side * scale) for side in image.size)
            left, top = (width - size) // 2, (height - size) // 2
            if max(image.size) > _OBLONG * min(image.size):
                # The whole could need gigabytes.
                x, y = image.width / width, image.height / height
                box = (left * x, top * y, (left + size) * x, (top + size) * y)
                return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box))
            image = image.resize((width, height), Image.Resampling.BILINEAR)
            return np.asarray(image.crop((left, top, left + size, top + size)))
    except (*_DAMAGED, Image.DecompressionBombError) as error:
        raise ValueError(f"{str(file)!r} is damaged or not an image: {error}") from error


def _check_mode(image):
    if image.mode == "F":
        raise ValueError("floating-point images are not supported")
    # Where 16 bits have a mode of their own, other integers have this one.
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise ValueError("32-bit and signed integer images are not supported")


def _rgb(image):
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion clips most values
        image = Image.fromarray((np.asarray(image).astype("uint32") >> 8).astype("uint8"))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def decode_all(files, size, skip_corrupt=False, cache=None, advice=""):
    """Decode many image files into one array.

    Args:
        files: Paths.
        size: Height and width, see `decode`.
        skip_corrupt: Whether a file that cannot be decoded is left out with a warning.
        cache: Folder that keeps the array, which is then memory-mapped; `None` for memory. It is
            used again for the same files with the same sizes and modification times.
        advice: What the error for a damaged file advises.

    Returns:
        `(images, kept)`: uint8 [M, size, size, 3] and the indices [M] of their files.

    Raises:
        OSError: If the disk has no room for the cache.
        ValueError: If a file cannot be decoded and `skip_corrupt` is not set, the images do not fit
            into the memory, the cache is no folder that can be written, or a file of it is damaged.
    """
    shape = (len(files), size, size, 3)
    if cache is None:
        needed, memory = len(files) * size * size * 3, memory_mapped.physical_memory()
        if needed > memory:
            raise ValueError(
                f"{len(files)} images of {size}x{size} need {needed:,} bytes of memory; there are "
                f"{memory:,}. Use a smaller `image_size`, or an `image_cache` (--image-cache)"
            )
        images = np.empty(shape, "uint8")
        kept = _decode_into(images, files, size, skip_corrupt, advice)
        return images[: len(kept)], kept
    path = Path(cache).expanduser() / f"{_digest(files, size)}.npy"
    kept_path = path.with_suffix(".kept.npy")
    if not path.exists():
        check_writable(path.parent, "image_cache")
        with atomic_path(path) as temporary:
            images = memory_mapped.create(temporary, shape, "uint8", _NO_ROOM)
            kept = _decode_into(images, files, size, skip_corrupt, advice)
            images.flush()
            with open_atomic(kept_path) as file:
                np.save(file, kept)
    try:
        images, kept = np.load(path, mmap_mode="r"), np.load(kept_path)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"The image cache {str(path)!r} is damaged ({error}). Remove it and {kept_path.name}"
        ) from error
    if len(kept) < len(files) and not skip_corrupt:
        # The cache was made with `skip_corrupt`: report the first file that was left out.
        missing = sorted(set(range(len(files))) - set(kept.tolist()))
        _decode(files[missing[0]], size, advice)
    return images[: len(kept)], kept


def _decode(file, size, advice):
    try:
        return decode(file, size)
    except ValueError as error:
        raise ValueError(f"{error}. {advice}".rstrip(". ")) from error


def _decode_into(images, files, size, skip_corrupt, advice):
    """Fill the first rows of `images`; returns the indices of their files."""
    kept = []

    def read(file):
        if not skip_corrupt:
            return _decode(file, size, advice)
        try:
            return decode(file, size)
        except ValueError as error:
            log.warning("left out: %s", error)
            return None

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        # In portions, so that few decoded images wait to be copied.
        for start in range(0, len(files), 1024):
            for index, image in enumerate(threads.map(read, files[start : start + 1024]), start):
                if image is not None:
                    images[len(kept)] = image
                    kept.append(index)
    return np.array(kept, "int64")


def _digest(files, size):
    """A name for the decoded files that changes when they change."""
    digest = hashlib.sha256(f"{size}".encode())
    for file in files:
        status = Path(file).stat()
        digest.update(os.fsencode(Path(file).resolve()))
        digest.update(f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
