"""letKD on your own images, with your own teacher and student.

    python -m letkd_keras.recipes.folder --data photos --teacher teacher.keras --student mnv2

`photos` has a folder of images for each class, or `train` and `val` with such folders. The teacher
is any functional or sequential Keras classifier saved as .keras (of keras.applications, of
keras-hub with a head, your own), or the name of a network of the zoo, which is then trained first.
The student is likewise a name or a file; a file's weights are what it starts from. Both see the
same images, scaled as --pixels says, which is what a teacher from a file must have been trained on;
networks of the zoo scale raw pixels themselves. KD layers follow the layers that --penultimate and
--intermediate name, or those proposed and printed. Grids that differ are averaged where one divides
the other.
"""

import argparse
from pathlib import Path

from letkd_keras.recipes.command_line import add_run_options, run_main, show, verbosity

# What a network takes: (mean, standard deviation) of pixels in 0..1.
_PIXELS = {
    "0..255": ((0.0,) * 3, (1 / 255,) * 3),
    "0..1": ((0.0,) * 3, (1.0,) * 3),
    "centred": ((0.5,) * 3, (0.5,) * 3),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def parse(arguments=None):
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(
        prog="python -m letkd_keras.recipes.folder",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data", required=True, type=Path, help="folder with a folder for each class")
    add("--teacher", required=True, help="a .keras file, or the name of a network to train first")
    add("--student", required=True, help="the name of a network, or a .keras file to start from")
    add("--penultimate", help="student's layer before its pooling; proposed if not given")
    add("--intermediate", help="student's layer at the end of a block before; likewise")
    add("--teacher-penultimate", help="teacher's layer likewise")
    add("--teacher-intermediate", help="teacher's layer likewise")
    add(
        "--method",
        nargs="+",
        default=["student", "letkd2"],
        help="student, kd, quest, letkd1, letkd2; the last one is exported (default: %(default)s)",
    )
    add("--image-size", type=int, help="height and width (default: the teacher's, or 64)")
    add(
        "--pixels",
        choices=_PIXELS,
        default="0..255",
        help="what the networks take: centred is -1..1, imagenet torchvision's (%(default)s)",
    )
    add("--validation-split", type=float, default=0.2, help="held out if there is no val folder")
    add("--skip-corrupt", action="store_true", help="leave broken images out with a warning")
    add("--cache", type=Path, help="keep decoded images here rather than in memory")
    add("--epochs", type=int, default=60, help="milestones scale with it (%(default)s)")
    add("--teacher-epochs", type=int, help="default: as --epochs")
    add("--learning-rate", type=float, default=0.05, help="of the students (%(default)s)")
    add("--teacher-learning-rate", type=float, default=0.05, help="of a teacher of the zoo")
    add("--templates", type=int, default=1024, help="penultimate templates (%(default)s)")
    add("--subclasses", type=int, default=8, help="sub-classes of each class (%(default)s)")
    add("--components", type=int, default=60, help="LDA components (%(default)s)")
    add("--no-flip", action="store_true", help="a mirrored image is of another class")
    add(
        "--augment",
        nargs="+",
        default=[],
        help="randaugment, cutmix, mixup of keras-cv, beside random crop and flip",
    )
    add("--trials", type=int, default=1, help="students of each method, of consecutive seeds")
    add_run_options(parser, batch_size=64, default_dir="runs/folder/DATA-TEACHER-STUDENT")
    return parser.parse_args(arguments)


def main(arguments=None):
    """Run the recipe; returns its report."""
    options = parse(arguments)
    from letkd_keras.data import keras_cv_policies, load_image_folder
    from letkd_keras.recipes import methods
    from letkd_keras.recipes.experiment import Experiment, run
    from letkd_keras.recipes.networks import Network
    from letkd_keras.recipes.pairs import Pair
    from letkd_keras.recipes.training import cifar_schedule

    for method in options.method:
        methods.check(method)
    for policy in options.augment:
        keras_cv_policies.check(policy)
    teacher = Network(options.teacher, options.teacher_penultimate, options.teacher_intermediate)
    student = Network(options.student, options.penultimate, options.intermediate)
    image_size = options.image_size or teacher.image_size() or student.image_size() or 64
    mean, std = _PIXELS[options.pixels]
    data = load_image_folder(
        options.data,
        image_size,
        test_fraction=options.validation_split,
        seed=options.seed,
        mean=mean,
        std=std,
        skip_corrupt=options.skip_corrupt,
        image_cache=options.cache,
    )
    pair = Pair(teacher.title, student.title, data.name)
    experiment = Experiment(
        data=data,
        pair=pair,
        teacher=teacher,
        student=student,
        methods=tuple(options.method),
        teacher_schedule=cifar_schedule(
            options.teacher_learning_rate,
            options.teacher_epochs or options.epochs,
            options.batch_size,
        ),
        student_schedule=cifar_schedule(options.learning_rate, options.epochs, options.batch_size),
        templates=options.templates,
        subclasses=options.subclasses,
        components=options.components,
        augmentation={
            "crop_padding": image_size // 8,
            "flip": not options.no_flip,
            **({"policies": options.augment} if options.augment else {}),
        },
        seed=options.seed,
        trials=options.trials,
        export_method=options.method[-1],
    )
    run_dir = options.run_dir or Path("runs/folder", f"{data.name}-{pair.name}")
    report = run(experiment, run_dir, verbosity())
    show(run_dir)
    return report


if __name__ == "__main__":
    run_main(main)
