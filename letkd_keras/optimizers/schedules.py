from collections.abc import Iterable

import keras

from letkd_keras.ranges import positive_integer, positive_number


def epoch_decay(initial_rate, milestones, steps_per_epoch, factor=0.1):
    """Create a schedule whose learning rate drops after given epochs.

    Args:
        initial_rate: Rate of the first epochs, more than 0.
        milestones: Increasing numbers of completed epochs after which the rate drops. The paper
            uses (150, 180, 210).
        steps_per_epoch: Number of steps in an epoch, at least 1.
        factor: Factor, more than 0, by which the rate is multiplied at each milestone.

    Returns:
        A `keras.optimizers.schedules.LearningRateSchedule`, or `initial_rate` if there are no
        milestones.

    Raises:
        ValueError: If the milestones do not increase or a number is out of its range.
    """
    initial_rate = positive_number.check(initial_rate, "initial_rate")
    factor = positive_number.check(factor, "factor")
    steps_per_epoch = positive_integer.check(steps_per_epoch, "steps_per_epoch")
    if not isinstance(milestones, Iterable):
        raise ValueError(
            "`milestones` must be a sequence of numbers of epochs. "
            f"Received: milestones={milestones!r}"
        )
    milestones = [positive_integer.check(milestone, "milestones") for milestone in milestones]
    if milestones != sorted(set(milestones)):
        raise ValueError(
            "`milestones` must be increasing numbers of epochs of at least 1. "
            f"Received: milestones={milestones}"
        )
    if not milestones:
        return initial_rate
    # Keras keeps a value up to and including its boundary, and the first step is step 0.
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        [milestone * steps_per_epoch - 1 for milestone in milestones],
        [initial_rate * factor**drops for drops in range(len(milestones) + 1)],
    )


def scale_milestones(milestones, epochs, full_epochs):
    """Scale milestones to a schedule with another number of epochs.

    Args:
        milestones: Milestones of the full schedule.
        epochs: Number of epochs of the new schedule.
        full_epochs: Number of epochs of the full schedule.

    Returns:
        Increasing milestones, each at least 1 and less than `epochs`. Milestones that would
        coincide are merged.
    """
    scaled = {round(milestone * epochs / full_epochs) for milestone in milestones}
    return sorted(milestone for milestone in scaled if 0 < milestone < epochs)


@keras.saving.register_keras_serializable("letkd_keras")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule whose first steps have a rate that grows linearly to the schedule's.

    The rate of step `i`, counted from 0, is that of the schedule times `min((i + 1) / steps, 1)`.

    Args:
        schedule: `LearningRateSchedule`, or a constant rate, more than 0.
        steps: Number of steps after which the rate is the schedule's, at least 1.

    Raises:
        ValueError: If `steps` or a constant rate is out of its range.
    """

    def __init__(self, schedule, steps):
        super().__init__()
        if not callable(schedule):
            schedule = positive_number.check(schedule, "schedule")
        self.schedule = schedule
        self.steps = positive_integer.check(steps, "steps")

    def __call__(self, step):
        rate = self.schedule(step) if callable(self.schedule) else self.schedule
        done = (keras.ops.cast(step, "float32") + 1.0) / self.steps
        return rate * keras.ops.minimum(done, 1.0)

    def get_config(self):
        return {
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "steps": self.steps,
        }

    @classmethod
    def from_config(cls, config):
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule, config["steps"])
