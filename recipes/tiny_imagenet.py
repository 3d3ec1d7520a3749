"""letKD on Tiny-ImageNet: 200 classes, 64x64, the networks of CIFAR-100.

    python -m letkd_keras.recipes.tiny_imagenet --data-dir tiny-imagenet-200 --method letkd2

does what `letkd_keras.recipes.cifar100` does, by the same schedule (240 epochs, batch 64), with
rotation by up to 20 degrees and horizontal flip. The archive of http://cs231n.stanford.edu has to
be there, unzipped.

The test images are the 50 validation images of each class. The paper splits them in 25 for
validation and 25 for testing without saying which; here the halves are the first and the last 25
of each class by number, and the report gives the accuracy on either half beside that on both.

Expected top-1 (paper) by letKD-1 / letKD-2: wrn40_2-wrn16_2 61.42 / 62.21, wrn40_2-wrn40_1
59.75 / 60.59, resnet56-resnet20 55.54 / 57.35, wrn40_2-snv1 65.70 / 66.15, resnet50-mnv2
60.69 / 61.15. To try it in minutes: --train-examples 2000 --epochs 2 --templates 64.
"""

import argparse
from pathlib import Path

from letkd_keras.recipes.command_line import run_main, show, verbosity
from letkd_keras.recipes.paper_pair import PairRun, add_pair_options


def parse(arguments=None):
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(
        prog="python -m letkd_keras.recipes.tiny_imagenet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data-dir", required=True, help="the unzipped tiny-imagenet-200")
    parser.add_argument(
        "--cache", type=Path, help="folder for the decoded images; without it 1.4 GB of memory"
    )
    add_pair_options(
        parser, pair="resnet56-resnet20", epochs=240, batch_size=64, dataset="tiny_imagenet"
    )
    return parser.parse_args(arguments)


def main(arguments=None):
    """Run the recipe; returns its report."""
    options = parse(arguments)
    this = PairRun.of(options, "tiny_imagenet")
    from letkd_keras.data import load_tiny_imagenet
    from letkd_keras.recipes.experiment import run
    from letkd_keras.recipes.measures import add_measures
    from letkd_keras.recipes.training import cifar_schedule

    experiment = this.experiment(
        load_tiny_imagenet(options.data_dir, image_cache=options.cache),
        cifar_schedule,
        augmentation={"rotation": 20.0, "crop_padding": 0},
    )
    report = run(experiment, this.run_dir, verbosity())
    report = add_measures(report, experiment, this.run_dir, halves)
    show(this.run_dir)
    return report


def halves(logits, labels):
    """Top-1 accuracy in percent on each half of the validation images and on both."""
    from letkd_keras.data.tiny_imagenet import validation_halves
    from letkd_keras.recipes.measures import top_accuracy

    first = validation_halves(labels)
    return {
        "top-1, both halves": top_accuracy(logits, labels),
        "first half": top_accuracy(logits[first], labels[first]),
        "second half": top_accuracy(logits[~first], labels[~first]),
    }


if __name__ == "__main__":
    run_main(main)
