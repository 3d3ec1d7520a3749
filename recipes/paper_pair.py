"""What the recipes of the paper's data sets share: one pair by one method, from options."""

from dataclasses import dataclass, replace
from pathlib import Path

from letkd_keras.recipes.command_line import add_run_options


def add_pair_options(parser, *, pair, epochs, batch_size, dataset):
    """Options of a recipe that runs a pair by a method.

    Args:
        parser: `argparse.ArgumentParser`.
        pair: Default of `--pair`.
        epochs: Default of `--epochs`, the paper's.
        batch_size: Default of `--batch-size`.
        dataset: What the default run folder calls the data set.
    """
    add = parser.add_argument
    add("--pair", default=pair, help="teacher-student, see python -m letkd_keras.recipes --list")
    add("--method", default="letkd2", help="one of --list, perhaps with +kd (%(default)s)")
    add("--teacher", help="a trained .keras teacher; without it one is trained")
    add("--epochs", type=int, default=epochs, help="milestones scale with it (%(default)s)")
    add("--teacher-epochs", type=int, help="default: as --epochs")
    add("--train-examples", type=int, help="train on so many images, stratified")
    add("--test-examples", type=int, help="test on so many images, stratified")
    add("--templates", type=int, default=4096, help="penultimate templates (%(default)s)")
    add("--subclasses", type=int, default=8, help="sub-classes of each class (%(default)s)")
    add("--trials", type=int, default=1, help="students, of consecutive seeds (%(default)s)")
    add_run_options(parser, batch_size=batch_size, default_dir=f"runs/{dataset}/PAIR-METHOD")


@dataclass(frozen=True)
class PairRun:
    """A run to come, checked as far as that needs no data.

    Attributes:
        options: What `add_pair_options` has parsed.
        pair: `Pair`.
        dataset: Name of the data set in the default run folder.
    """

    options: object
    pair: object
    dataset: str

    @classmethod
    def of(cls, options, pairs_of, dataset=None):
        """The run that options ask for.

        Args:
            options: What `add_pair_options` has parsed.
            pairs_of: Data set whose pairs there are to choose from.
            dataset: Data set that is run, if it is another one.

        Raises:
            ValueError: If the pair or the method is unknown.
        """
        from letkd_keras.recipes import methods, pairs

        pair = pairs.find(options.pair, pairs_of)
        methods.check(options.method)
        this = cls(options, pair, pairs_of)
        return this if dataset in (None, pairs_of) else replace(this.unpublished(), dataset=dataset)

    def unpublished(self):
        """The same on other data than the paper's, where its numbers mean nothing."""
        return replace(self, pair=self.pair.unpublished())

    @property
    def run_dir(self):
        """The run folder: the option's or the default one."""
        name = f"{self.pair.name}-{self.options.method}"
        return self.options.run_dir or Path("runs", self.dataset, name)

    def experiment(self, data, schedule, **settings):
        """The experiment on a data set.

        Args:
            data: The data set, whole; the options choose how much of it is used.
            schedule: `schedule(learning_rate, epochs, batch_size)`, of teacher and student. Its
                default learning rate is the teacher's.
            **settings: Further fields of `Experiment`.

        Returns:
            `Experiment`.
        """
        from letkd_keras.recipes.experiment import Experiment
        from letkd_keras.recipes.networks import Network

        options = self.options
        batch_size = options.batch_size
        return Experiment(
            data=data.subset(options.train_examples, options.test_examples, options.seed),
            pair=self.pair,
            methods=(options.method,),
            teacher_schedule=schedule(
                epochs=options.teacher_epochs or options.epochs, batch_size=batch_size
            ),
            student_schedule=schedule(self.pair.learning_rate, options.epochs, batch_size),
            teacher=Network(options.teacher) if options.teacher else None,
            templates=options.templates,
            subclasses=options.subclasses,
            seed=options.seed,
            trials=options.trials,
            export_method=options.method,
            **settings,
        )
