"""letKD on ImageNet: 224x224, streamed from disk.

    python -m letkd_keras.recipes.imagenet --data-dir DIR --teacher teacher.keras

DIR is a tree with train/ and val/ and a folder for each class in both, or the folder of
tensorflow-datasets with imagenet2012, prepared. Random resized crops and flips in training, the
centre of the image in evaluation; 100 epochs of batch 256, rate 0.1, a tenth of it after 30, 60
and 90, weight decay 1e-4. The literature's teachers are torchvision's: make one with

    python -m letkd_keras.models --network imagenet_resnet34 --weights FILE.pth --out teacher.keras

Expected top-1/top-5 of imagenet_resnet34-imagenet_resnet18 (paper): teacher 73.31/91.42, student
alone 69.75/89.07, KD 70.66/89.88, letKD-1 72.33/91.06, letKD-2 72.38/91.15. The paper's "RN50-MNV2"
is imagenet_resnet50-imagenet_mobilenet_v1: letKD-2 73.98/92.00. Any tree of folders will do to try
it: --image-size 64 --epochs 1 --templates 64.
"""

import argparse
import logging

from letkd_keras.recipes.command_line import run_main, show, verbosity
from letkd_keras.recipes.paper_pair import PairRun, add_pair_options


def parse(arguments=None):
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(
        prog="python -m letkd_keras.recipes.imagenet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data-dir", help="train/ and val/, or a tensorflow-datasets folder")
    parser.add_argument("--image-size", type=int, default=224, help="of the crops (%(default)s)")
    add_pair_options(
        parser,
        pair="imagenet_resnet34-imagenet_resnet18",
        epochs=100,
        batch_size=256,
        dataset="imagenet",
    )
    return parser.parse_args(arguments)


def imagenet_schedule(learning_rate=0.1, epochs=100, batch_size=256):
    """The schedule of the literature for ImageNet, its milestones scaled to the epochs."""
    from letkd_keras import optimizers
    from letkd_keras.recipes.training import Schedule

    milestones = tuple(optimizers.scale_milestones((30, 60, 90), epochs, 100))
    return Schedule(epochs, learning_rate, milestones, batch_size, weight_decay=1e-4)


def main(arguments=None):
    """Run the recipe; returns its report."""
    options = parse(arguments)
    this = PairRun.of(options, "imagenet")
    from letkd_keras.data import load_imagenet
    from letkd_keras.recipes.measures import add_measures

    data = load_imagenet(options.data_dir, options.image_size)
    if data.num_classes != 1000:
        this = this.unpublished()
    # All feature vectors would be half a terabyte with a ResNet-50: the k-means takes a sample.
    experiment = this.experiment(data, imagenet_schedule, prototype_options={})
    report = _run(experiment, this.run_dir)
    published = {"top-1": this.pair.published, "top-5": this.pair.published_top5}
    report = add_measures(report, experiment, this.run_dir, accuracies, published)
    show(this.run_dir)
    return report


def _run(experiment, run_dir):
    """Run the experiment; where an image stops it, say which one."""
    import tensorflow as tf

    from letkd_keras.recipes.experiment import run

    try:
        return run(experiment, run_dir, verbosity())
    except tf.errors.InvalidArgumentError:
        logging.getLogger("letkd_keras").warning("stopped; looking for images that are broken")
        experiment.data.check()
        raise


def accuracies(logits, labels):
    """Top-1 and top-5 accuracy in percent."""
    from letkd_keras.recipes.measures import top_accuracy

    return {"top-1": top_accuracy(logits, labels), "top-5": top_accuracy(logits, labels, 5)}


if __name__ == "__main__":
    run_main(main)
