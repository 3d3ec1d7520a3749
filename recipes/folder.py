"""letKD on your own images, with your own teacher and student.

    python -m letkd_keras.recipes.folder --data photos --teacher teacher.keras --student mnv2

`photos` has a folder of images for each class, or `train` and `val` with such folders; an `.npz` of
`python -m letkd_keras.data` and `tfds:NAME` work too. Teacher and student are a network of
keras.applications (keras.applications:EfficientNetB0), a preset of keras-hub (keras_hub:PRESET,
hf://USER/MODEL), a network of the zoo, or any functional or sequential Keras network saved as
.keras:

    python -m letkd_keras.recipes.folder --data photos --image-size 64 \
--teacher keras.applications:EfficientNetB0 --teacher-weights imagenet \
--student keras.applications:MobileNetV3Small --student-weights imagenet --growth 25%

A teacher without trained weights is trained first. One with trained weights for other classes, or
without a classifier, gets a new head, which is trained on its frozen features (--head-epochs);
--fine-tune-epochs then trains all of it. A student starts from its trained weights.

Both networks get the same images, of --image-size and with pixels scaled as --pixels says, and
resize and scale them as each was trained. For a .keras file that was trained on another scale, give
--teacher-pixels or --student-pixels. Networks of the zoo scale raw pixels (0..255) themselves.

KD layers are inserted after the layers that --penultimate-layer and --intermediate-layer name, or
after the suggested ones, which are printed. A teacher may be a transformer (ViT, DeiT, Swin), whose
tokens become a grid; a student needs feature maps. Where the grids of teacher and student differ,
the finer one is averaged to the other: 7x7 and 4x4 work, too. A network without an intermediate
layer is trained by letkd1 in place of letkd2.

The methods are student (alone), kd and letkd2+dkd where --methods names no others. The student of
the last one is exported. Cost: as many epochs as --epochs for each method; the teacher's forward
pass is added to each step.
"""

from letkd_keras.command_line import Parser, run_main
from letkd_keras.recipes.experiments.options import add_experiment_options
from letkd_keras.recipes.experiments.settings import Settings
from letkd_keras.recipes.recipe_command import run_recipe

SETTINGS = Settings(
    dataset="folder",
    # Raw pixels; networks scale them.
    pixels="0..255",
    # SGD with Nesterov momentum 0.9; milestones as on CIFAR-100, scaled to the epochs.
    epochs=60,
    batch_size=64,
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
    add_experiment_options(
        parser,
        SETTINGS,
        data_required="a folder of class folders",
        methods=("student", "kd", "letkd2+dkd"),
        networks_required=True,
    )
    return parser.parse_args(arguments)


def main(arguments=None):
    """Run the recipe; returns its report."""
    return run_recipe(parse(arguments), SETTINGS)


if __name__ == "__main__":
    run_main(main)
