"""letKD on your own images, with your own teacher and student.

    python -m letkd_keras.recipes.folder --data photos --teacher teacher.keras \
--student keras.applications:MobileNetV3Small --student-weights imagenet --growth 25%

`photos` has a folder of images for each class, or `train` and `val` with such folders. Teacher and
student are each one of these:

- a .keras file of any functional or sequential Keras network
- a network of keras.applications, such as keras.applications:EfficientNetB0
- a preset of keras-hub, keras_hub:PRESET or hf://USER/MODEL
- a network of the zoo, such as mnv2; `python -m letkd_keras.recipes --list` prints them
- only the teacher: an .onnx file, such as one that PyTorch exported

An example with networks of keras.applications:

    python -m letkd_keras.recipes.folder --data photos --image-size 224 \
--teacher keras.applications:EfficientNetB0 --teacher-weights imagenet \
--student keras.applications:MobileNetV3Small --student-weights imagenet --growth 25%

A teacher without trained weights is trained first. A trained teacher with another number of
classes, or without a classifier, gets a new head, which is trained on its frozen features
(--head-epochs). --fine-tune-epochs then trains the whole teacher. A student starts from its trained
weights, if it has any.

Both networks get the same images, of --image-size and with pixels scaled as --pixels says. Without
--image-size, images have the size that the student was trained with, otherwise that of the teacher,
otherwise 64. The size of presets of keras-hub is not known: give --image-size. Networks of
keras.applications, keras-hub and the zoo resize and scale the images as they need. For a file of
a network that was trained on another scale, give --teacher-pixels or --student-pixels.

KD layers are inserted after suggested layers, which are printed, or after those that
--student-penultimate-layer and --student-intermediate-layer name. A teacher may be a transformer
(ViT, DeiT, Swin). A student needs feature maps. Where the grids of teacher and student differ, the
finer one is averaged to the other: 7x7 and 4x4 work, too. If no intermediate layer is known,
letkd1 takes the place of letkd2.

By default three students are trained: alone, by kd and by letkd2+dkd (--methods). The student of
the last method is exported. Cost: each method is trained for --epochs epochs. In each step the
teacher runs once, too.
"""

from letkd_keras.commands.command_line import Parser, run_main
from letkd_keras.recipes.experiments.options import add_experiment_options
from letkd_keras.recipes.experiments.settings import Settings
from letkd_keras.recipes.recipe_command import run_recipe

SETTINGS = Settings(
    dataset="folder",
    # Raw pixels; networks scale them.
    pixels="0..255",
    # AdamW suits unknown networks and few images. The published schedule, SGD with milestones, can
    # diverge there (docs/more_results.md).
    epochs=60,
    batch_size=64,
    optimizer="adamw",
    schedule="cosine",
    # For --optimizer sgd: Nesterov momentum 0.9; milestones as on CIFAR-100, scaled to the epochs.
    learning_rate=0.05,
    milestones=(150, 180, 210),
    milestones_of=240,
    weight_decay=5e-4,
    # The padding of the random crop is an eighth of the image size.
    augmentation={"flip": True},
    templates=1024,
    subclasses=8,
    components=60,
    iterations=20,
)


def parse(arguments=None):
    """Parse the command line."""
    parser = Parser("letkd_keras.recipes.folder", __doc__)
    add_experiment_options(parser, SETTINGS, methods=("student", "kd", "letkd2+dkd"))
    return parser.parse_args(arguments)


def main(arguments=None):
    """Run the recipe; returns its report."""
    return run_recipe(parse(arguments), SETTINGS)


if __name__ == "__main__":
    run_main(main)
