"""letKD on ImageNet (224x224, streamed), as in table 4 of the paper.

    python -m letkd_keras.recipes.imagenet --data imagenet:DIR --teacher teacher.keras

DIR has train/ and val/ with a folder for each class, or is the folder of tensorflow-datasets with
imagenet2012 prepared. The literature's teachers are torchvision's; convert one with

    python -m letkd_keras.models --network imagenet_resnet34 --weights FILE.pth --out teacher.keras

To try it, any tree of class folders will do: --image-size 64 --epochs 1 --templates 64.

Cost: 100 epochs of 5,004 steps of 256 images. With the cache of feature vectors, k-means sees every
vector of the teacher: 129 GB for a ResNet-34 in float32, 514 GB for a ResNet-50; --feature-cache
float16 halves it, and --feature-cache none works on a sample of --memory bytes.

Expected top-1/top-5 (paper). imagenet_resnet34-imagenet_resnet18: teacher 73.31/91.42, student
alone 69.75/89.07, KD 70.66/89.88, letKD-1 72.33/91.06, letKD-2 72.38/91.15. The paper's
"RN50-MNV2" is imagenet_resnet50-imagenet_mobilenet_v1: letKD-2 73.98/92.00.
"""

from letkd_keras.commands.command_line import Parser, run_main
from letkd_keras.recipes.experiments.options import add_experiment_options
from letkd_keras.recipes.experiments.settings import Pair, Settings
from letkd_keras.recipes.recipe_command import run_recipe

SETTINGS = Settings(
    dataset="imagenet",
    num_classes=1000,
    image_size=224,
    pair="imagenet_resnet34-imagenet_resnet18",
    pairs=(
        Pair("imagenet_resnet34", "imagenet_resnet18", learning_rate=0.1, dkd_beta=0.5),
        Pair(
            "imagenet_resnet50",
            "imagenet_mobilenet_v1",
            learning_rate=0.1,
            note="called RN50-MNV2 in the paper; the student of its program is MobileNetV1",
        ),
        Pair(
            "imagenet_resnet50",
            "imagenet_mobilenet_v2",
            learning_rate=0.1,
            note="not in the paper, whose RN50-MNV2 has MobileNetV1 as the student",
        ),
    ),
    # SGD with Nesterov momentum 0.9, for teachers and students.
    epochs=100,
    batch_size=256,
    learning_rate=0.1,
    milestones=(30, 60, 90),
    weight_decay=1e-4,
    # A random crop of 8% to 100% of the area, resized; horizontal flip. The center in evaluation.
    augmentation={"area": (0.08, 1.0), "aspect": (3 / 4, 4 / 3), "flip": True},
    templates=4096,
    subclasses=8,
    components=60,
    iterations=20,
    # KD and DKD have other settings here than on CIFAR-100 (DKD's program).
    logit_losses={
        "kd": {"options": {"temperature": 1.0}, "weight": 0.5, "task_weight": 0.5},
        "dkd": {"options": {"temperature": 1.0, "alpha": 1.0, "beta": 2.0}, "warm_up_epochs": 1},
        "dist": {"options": {"temperature": 1.0}},
    },
)


def parse(arguments=None):
    """Parse the command line."""
    parser = Parser("letkd_keras.recipes.imagenet", __doc__)
    add_experiment_options(parser, SETTINGS)
    return parser.parse_args(arguments)


def main(arguments=None):
    """Run the recipe; returns its report."""
    return run_recipe(parse(arguments), SETTINGS, measures=top1_and_top5)


def top1_and_top5(logits, labels):
    """Top-1 and top-5 accuracy in percent."""
    from letkd_keras.recipes.reports.measures import top_accuracy

    return {"top-1": top_accuracy(logits, labels), "top-5": top_accuracy(logits, labels, 5)}


if __name__ == "__main__":
    run_main(main)
