"""letKD on CIFAR-100, as in tables 1 and 2 of the paper (BMVC 2023).

    python -m letkd_keras.recipes.cifar100 --pair wrn40_2-snv1

This loads or trains the teacher, fits its prototypes and trains the student for 240 epochs. It
reports the accuracy of the last and of the best epoch beside the published one, and exports the
student to SavedModel and TFLite. The same command continues an interrupted run. To try it in
minutes:

    python -m letkd_keras.recipes.cifar100 --train-examples 2000 --epochs 2 --templates 64

Where there is no TensorFlow, the recipe runs on JAX from a file that `python -m letkd_keras.data`
wrote:

    KERAS_BACKEND=jax python -m letkd_keras.recipes.cifar100 --data cifar100.npz

Cost: 240 epochs of 781 steps for each network; docs/speed.md has the time of a step.

Expected top-1 of resnet56-resnet20 (paper, mean of five runs): teacher 72.34, student alone 69.06,
KD 70.66, letKD-1 72.44 ± 0.24, letKD-2 73.27 ± 0.16. `python -m letkd_keras.recipes --list` has the
numbers of all pairs and methods.
"""

from letkd_keras.commands.command_line import Parser, run_main
from letkd_keras.recipes.experiments.options import add_experiment_options
from letkd_keras.recipes.experiments.settings import Pair, Settings
from letkd_keras.recipes.recipe_command import run_recipe

SETTINGS = Settings(
    dataset="cifar100",
    num_classes=100,
    image_size=32,
    pair="resnet56-resnet20",
    # The learning rate is 0.01 where the student is a MobileNet or a ShuffleNet. Alphas are 1
    # except for the last pair.
    pairs=(
        Pair("wrn40_2", "wrn16_2"),
        Pair("wrn40_2", "wrn40_1"),
        Pair("resnet56", "resnet20"),
        Pair("resnet110", "resnet20"),
        Pair("resnet110", "resnet32"),
        Pair("resnet32x4", "resnet8x4"),
        Pair("wrn40_2", "snv1", learning_rate=0.01),
        Pair("resnet32x4", "snv1", learning_rate=0.01),
        Pair("resnet32x4", "snv2", learning_rate=0.01),
        Pair(
            "resnet50",
            "mnv2",
            learning_rate=0.01,
            penultimate_alpha=0.1,
            intermediate_alpha=0.2,
        ),
    ),
    # SGD with Nesterov momentum 0.9, for teachers and students.
    epochs=240,
    batch_size=64,
    learning_rate=0.05,
    milestones=(150, 180, 210),
    weight_decay=5e-4,
    # Random crop of 32 pixels after padding by reflection; horizontal flip.
    augmentation={"crop_padding": 4, "flip": True},
    templates=4096,
    subclasses=8,
    components=60,
    iterations=20,
)


def parse(arguments=None):
    """Parse the command line."""
    parser = Parser("letkd_keras.recipes.cifar100", __doc__)
    add_experiment_options(parser, SETTINGS, data="cifar100")
    return parser.parse_args(arguments)


def main(arguments=None):
    """Run the recipe; returns its report."""
    return run_recipe(parse(arguments), SETTINGS)


if __name__ == "__main__":
    run_main(main)
