"""The tree of tiny-imagenet-200 with few, made-up images."""

from image_trees import picture

# wnids.txt of the archive is not sorted either.
COLOURS = {"n02124075": (10, 10, 250), "n01443537": (250, 10, 10), "n01770393": (10, 250, 10)}
NAMES = {"n01443537": "goldfish, Carassius auratus", "n02124075": "Egyptian cat"}


def write_tiny_imagenet(folder, train=6, val=4):
    """`train` and `val` images a class; returns the folder."""
    root = folder / "tiny-imagenet-200"
    (root / "val" / "images").mkdir(parents=True)
    annotations = []
    for label, (wnid, colour) in enumerate(COLOURS.items()):
        images = root / "train" / wnid / "images"
        images.mkdir(parents=True)
        (images.parent / f"{wnid}_boxes.txt").write_text("x_0.JPEG\t0\t0\t63\t63\n")
        for number in range(train):
            image = picture(colour, (64, 64), seed=100 * label + number)
            image.save(images / f"{wnid}_{number}.JPEG")
        for number in range(val):
            name = f"val_{number * len(COLOURS) + label}.JPEG"
            image = picture(colour, (64, 64), seed=5000 + 100 * label + number)
            image.save(root / "val" / "images" / name)
            annotations.append(f"{name}\t{wnid}\t0\t0\t62\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(sorted(annotations)))
    (root / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in COLOURS))
    words = [f"{wnid}\t{name}\n" for wnid, name in {**NAMES, "n09999999": "nothing"}.items()]
    (root / "words.txt").write_text("".join(words))
    return root
