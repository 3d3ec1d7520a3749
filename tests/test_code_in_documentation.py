"""The Python on the pages runs, in the order of each page, on small networks and data."""

import re
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
from tables_restored import tables_restored

import letkd_keras

ROOT = Path(__file__).parents[1]
PAGES = {
    file.relative_to(ROOT).as_posix(): re.findall(
        r"^( *)```python\n(.*?)^ *```", file.read_text(), re.DOTALL | re.MULTILINE
    )
    for file in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
}
PAGES = {name: "".join(textwrap.dedent(c) for _, c in blocks) for name, blocks in PAGES.items()}
# What is made smaller, or left undone since it holds for the whole process.
SMALLER = {
    "README.md": {"epochs=240": "epochs=1", "num_classes=100": "num_classes=10"},
    "docs/quick_start.md": {
        "teacher_epochs, student_epochs, batch_size = 12, 6, 64": (
            "teacher_epochs, student_epochs, batch_size = 1, 1, 64"
        ),
    },
    "docs/runs.md": {
        "enable_op_determinism()": "enable_op_determinism",
        "RUN/letkd2/seed0/student.keras": "teacher.keras",
    },
    "docs/your_models.md": {
        "(224, 224, 3)": "(64, 64, 3)",
        "image_size=224": "image_size=64",
        "epochs=60": "epochs=1",
    },
}
SLOW = ("README.md", "docs/quick_start.md", "docs/your_models.md")


def _page(name):
    return pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW))


@pytest.fixture(scope="module")
def networks():
    keras.utils.set_random_seed(0)
    images = np.random.default_rng(0).standard_normal((64, 32, 32, 3)).astype("float32")
    teacher = letkd_keras.models.build("resnet14", num_classes=10)
    data = (images, np.arange(64) % 10)
    return teacher, data, letkd_keras.fit_prototypes(teacher, data, templates=8, subclasses=2)


@pytest.mark.parametrize("name", [_page(name) for name, code in PAGES.items() if code])
def test_the_code_of_a_page_runs(name, networks, tmp_path, monkeypatch):
    tf = pytest.importorskip("tensorflow")
    code = PAGES[name]
    for written, smaller in SMALLER.get(name, {}).items():
        assert written in code
        code = code.replace(written, smaller)
    monkeypatch.chdir(tmp_path)
    teacher, (images, labels), prototypes = networks
    keras.utils.set_random_seed(0)  # no page depends on those before it
    student = letkd_keras.models.build("resnet8", num_classes=10)
    # Without training its classes are nearly equal, and an int8 file would have others.
    student.layers[-1].bias.assign(np.eye(10)[0])
    if name == "docs/your_models.md":
        images = np.repeat(np.repeat(images, 2, axis=1), 2, axis=2)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            for split in ("train", "val"):
                file = tmp_path / "photos" / split / f"class {label}" / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                keras.utils.save_img(file, image[:, 8:56])  # not square
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(32)
    pixels = np.random.default_rng(2).integers(0, 256, images.shape, "uint8")
    logits = np.random.default_rng(1).standard_normal((2, 64, 10)).astype("float32")
    teacher.save("teacher.keras")
    policy = keras.config.dtype_policy()
    registered = dict(keras.saving.get_custom_objects())
    try:
        with tables_restored():
            exec(
                compile(code, name, "exec"),
                {
                    **{"keras": keras, "tf": tf, "letkd": letkd_keras, "letkd_keras": letkd_keras},
                    "teacher": teacher,
                    "student": student,
                    "prototypes": prototypes,
                    **{"plain_ds": batches, "train_ds": batches, "test_ds": batches},
                    **{"teacher_logits": logits[0], "student_logits": logits[1]},
                    "images": images,
                    **{"test_images": pixels, "test_labels": labels},
                    **{"labels": labels, "sample_weight": np.ones(64, "float32")},
                },
            )
    finally:
        keras.config.set_dtype_policy(policy)
        for added in set(keras.saving.get_custom_objects()) - set(registered):
            del keras.saving.get_custom_objects()[added]


def test_the_example_of_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) < 25
