import keras


def epoch_decay(initial_rate, milestones, steps_per_epoch, factor=0.1):
    """Rate divided at epochs, as a schedule over steps.

    Args:
        initial_rate: Rate of the first epochs, more than 0.
        milestones: Increasing numbers of completed epochs after which the rate drops; the paper's
            (150, 180, 210).
        steps_per_epoch: Steps of an epoch, at least 1.
        factor: What the rate is multiplied by at each milestone.

    Returns:
        A `keras.optimizers.schedules.LearningRateSchedule`; the plain rate without milestones.

    Raises:
        ValueError: If the milestones do not increase or a number is out of range.
    """
    milestones = list(milestones)
    if steps_per_epoch < 1:
        raise ValueError(
            f"`steps_per_epoch` must be at least 1. Received: steps_per_epoch={steps_per_epoch}"
        )
    if milestones != sorted(set(milestones)) or any(m < 1 for m in milestones):
        raise ValueError(
            "`milestones` must be increasing numbers of epochs of at least 1. "
            f"Received: milestones={milestones}"
        )
    if not milestones:
        return initial_rate
    # Keras keeps a value up to and including its boundary; step 0 is the first.
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        [milestone * steps_per_epoch - 1 for milestone in milestones],
        [initial_rate * factor**drops for drops in range(len(milestones) + 1)],
    )


def scale_milestones(milestones, epochs, full_epochs):
    """The same milestones for a shorter or longer schedule, without any that would coincide.

    Args:
        milestones: Milestones of the full schedule.
        epochs: Epochs of the schedule wanted.
        full_epochs: Epochs of the full schedule.

    Returns:
        Increasing milestones, each at least 1 and below `epochs`.
    """
    scaled = {round(milestone * epochs / full_epochs) for milestone in milestones}
    return sorted(milestone for milestone in scaled if 0 < milestone < epochs)
