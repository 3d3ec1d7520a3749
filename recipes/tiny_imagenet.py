"""letKD on Tiny-ImageNet (200 classes, 64x64), supplement, table 3.

    python -m letkd_keras.recipes.tiny_imagenet --data tiny-imagenet:tiny-imagenet-200

This does what `letkd_keras.recipes.cifar100` does, with the same networks and schedule. The folder
is the archive of http://cs231n.stanford.edu, unzipped. Decoded images need 1.4 GB of memory, or a
folder that `--image-cache` names. To try it in minutes: --train-examples 2000 --epochs 2
--templates 64.

The test images are the 50 validation images of each class. The paper splits them into 25 for
validation and 25 for testing without saying which; here the halves are the first and the last 25
of each class by number, and the report has the accuracy on each half and on both (with
--test-examples, on these images only).

Cost: 240 epochs of 1,562 steps for each network, at four times CIFAR's pixels.

Expected top-1 of letKD-1 / letKD-2 (paper, mean of three runs): wrn40_2-wrn16_2 61.42 / 62.21,
wrn40_2-wrn40_1 59.75 / 60.59, resnet56-resnet20 55.54 / 57.35, wrn40_2-snv1 65.70 / 66.15,
resnet50-mnv2 60.69 / 61.15.
"""

import numpy as np

from letkd_keras.commands.command_line import Parser, run_main
from letkd_keras.recipes.experiments.options import add_experiment_options
from letkd_keras.recipes.experiments.settings import Pair, Settings
from letkd_keras.recipes.recipe_command import run_recipe

SETTINGS = Settings(
    dataset="tiny_imagenet",
    num_classes=200,
    image_size=64,
    pair="resnet56-resnet20",
    pairs=(
        Pair("wrn40_2", "wrn16_2"),
        Pair("wrn40_2", "wrn40_1"),
        Pair("resnet56", "resnet20"),
        Pair("wrn40_2", "snv1", learning_rate=0.01),
        Pair("resnet50", "mnv2", learning_rate=0.01, penultimate_alpha=0.5),
    ),
    # SGD with Nesterov momentum 0.9, for teachers and students.
    epochs=240,
    batch_size=64,
    learning_rate=0.05,
    # The other ShuffleNet, which is in no pair of the paper here.
    learning_rates={"snv2": 0.01},
    milestones=(150, 180, 210),
    weight_decay=5e-4,
    # Rotation by up to 20 degrees and horizontal flip, no crop.
    augmentation={"rotation": 20.0, "crop_padding": 0, "flip": True},
    templates=4096,
    subclasses=8,
    components=60,
    iterations=20,
)


def parse(arguments=None):
    """Parse the command line."""
    parser = Parser("letkd_keras.recipes.tiny_imagenet", __doc__)
    add_experiment_options(parser, SETTINGS)
    return parser.parse_args(arguments)


def main(arguments=None):
    """Run the recipe; returns its report."""
    return run_recipe(parse(arguments), SETTINGS, measures=halves)


def halves(logits, labels):
    """Top-1 accuracy in percent on each half of the validation images and on both.

    On fewer than the 50 images of each class there are no halves: `top-1` only.
    """
    from letkd_keras.data.tiny_imagenet import validation_halves
    from letkd_keras.recipes.reports.measures import top_accuracy

    if set(np.unique(labels, return_counts=True)[1]) != {50}:
        return {"top-1": top_accuracy(logits, labels)}
    first = validation_halves(labels)
    return {
        "top-1, both halves": top_accuracy(logits, labels),
        "first half": top_accuracy(logits[first], labels[first]),
        "second half": top_accuracy(logits[~first], labels[~first]),
    }


if __name__ == "__main__":
    run_main(main)
