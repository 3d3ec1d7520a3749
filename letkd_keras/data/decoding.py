"""Image files to arrays of one size."""

import hashlib
import logging
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

log = logging.getLogger("letkd_keras")

# What Pillow raises on broken files, depending on the format and on where they break.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


def decode(file, size):
    """An image file as an RGB array of `size` by `size` pixels.

    The image is turned as its EXIF orientation says, its shorter side is resized to `size`
    (bilinear, antialiased) and its centre cut out. Grey-scale becomes three equal channels, 16 bits
    become 8, CMYK and palettes are converted; what is transparent shows white. Of an animation it
    is the first frame.

    Args:
        file: Path of anything that Pillow reads.
        size: Height and width wanted.

    Returns:
        uint8 [size, size, 3].

    Raises:
        ValueError: If the file is broken or no image, naming it.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            image.draft("RGB", (size, size))  # JPEG: decode no more pixels than needed
            image = _rgb(ImageOps.exif_transpose(image))
            scale = size / min(image.size)
            width, height = (max(size, round(side * scale)) for side in image.size)
            left, top = (width - size) // 2, (height - size) // 2
            if image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BILINEAR)
            return np.asarray(image.crop((left, top, left + size, top + size)))
    except (*_BROKEN, Image.DecompressionBombError) as error:
        raise ValueError(f"{str(file)!r} is broken or no image: {error}") from error


def _rgb(image):
    from PIL import Image

    if image.mode == "F":
        raise ValueError("floating-point images are not supported")
    if image.mode.startswith("I"):  # 16 bits a pixel, of which Pillow's own conversion clips most
        image = Image.fromarray((np.asarray(image).astype("uint32") >> 8).astype("uint8"))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def decode_all(files, size, skip_corrupt=False, cache=None):
    """Many image files as one array.

    Args:
        files: Paths.
        size: Height and width wanted, see `decode`.
        skip_corrupt: Whether a broken file is left out with a warning that names it, rather than an
            error.
        cache: Folder to keep the array in, memory-mapped from then on; `None` for memory. It is
            used again for the same files of the same size and time.

    Returns:
        `(images, kept)`: uint8 [M, size, size, 3] and the indices [M] of the files they are of.

    Raises:
        ValueError: If a file is broken and `skip_corrupt` is not set.
    """
    if cache is None:
        images = np.empty((len(files), size, size, 3), "uint8")
        kept = _decode_into(images, files, size, skip_corrupt)
        return (images if len(kept) == len(images) else images[: len(kept)]), kept
    place = Path(cache) / f"{_digest(files, size)}.npy"
    kept_place = place.with_suffix(".kept.npy")
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        aside = place.with_name(f".{place.name}.{os.getpid()}")
        shape = (len(files), size, size, 3)
        images = np.lib.format.open_memmap(aside, "w+", "uint8", shape)
        try:
            np.save(kept_place, _decode_into(images, files, size, skip_corrupt))
            images.flush()
            aside.replace(place)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
    kept = np.load(kept_place)
    if len(kept) < len(files) and not skip_corrupt:
        broken = sorted(set(range(len(files))) - set(kept.tolist()))
        decode(files[broken[0]], size)
    return np.load(place, mmap_mode="r")[: len(kept)], kept


def _decode_into(images, files, size, skip_corrupt):
    """Fill the first rows of `images`; the indices of the files they are of."""
    kept = []

    def read(file):
        try:
            return decode(file, size)
        except ValueError as error:
            if not skip_corrupt:
                raise
            log.warning("left out: %s", error)
            return None

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        # In portions: what is decoded and not yet copied stays small.
        for start in range(0, len(files), 1024):
            for index, image in enumerate(threads.map(read, files[start : start + 1024]), start):
                if image is not None:
                    images[len(kept)] = image
                    kept.append(index)
    return np.array(kept, "int64")


def _digest(files, size):
    """A name for the decoded files that changes with them."""
    digest = hashlib.sha256(f"{size}".encode())
    for file in files:
        status = Path(file).stat()
        digest.update(f"{Path(file).resolve()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
