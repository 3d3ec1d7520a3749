"""A schedule: the optimizer of a training, its learning rates, its loss and its precision."""

import math
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace

import keras

from letkd_keras import optimizers
from letkd_keras.losses import SmoothedCrossentropy
from letkd_keras.precision import dtype_policy


@dataclass(frozen=True)
class Schedule:
    """An optimizer and its schedule; the defaults are those of the published results.

    Attributes:
        epochs: Number of epochs.
        learning_rate: Learning rate of the first epochs, after the warm-up.
        milestones: Completed epochs after which the learning rate is divided by 10; `()` for a
            cosine.
        batch_size: Images in a step, over all devices.
        momentum: Nesterov momentum of SGD.
        weight_decay: Weight decay: of SGD coupled and of all trainable variables, of AdamW
            decoupled and without biases, scales and normalization.
        optimizer: `"sgd"` or `"adamw"`.
        schedule: `"steps"` for the milestones, `"cosine"` for a cosine decay to 0.
        warm_up_epochs: Epochs in which the learning rate grows linearly, of the schedule's.
        label_smoothing: Share of the labels that is spread over all classes.
        ema: Momentum of the moving average of the weights, or `None` for none. The averaged
            weights are evaluated and saved.
        clip_norm: Largest norm of the gradient of all variables, or `None`.
        mixed_precision: `"float16"`, `"bfloat16"` or `None`: type in which layers compute.
        kd_learning_rate_factor: Factor of the learning rate of the KD layers, of SGD.
        learning_rate_scale: Factor that `scaled_from` has multiplied the learning rate by.
    """

    epochs: int
    learning_rate: float
    milestones: tuple
    batch_size: int = 64
    momentum: float = 0.9
    weight_decay: float = 5e-4
    optimizer: str = "sgd"
    schedule: str = "steps"
    warm_up_epochs: int = 0
    label_smoothing: float = 0.0
    ema: float | None = None
    clip_norm: float | None = None
    mixed_precision: str | None = None
    kd_learning_rate_factor: float = 1.0
    learning_rate_scale: float = 1.0

    def __post_init__(self):
        if self.kd_learning_rate_factor != 1 and self.optimizer != "sgd":
            raise ValueError(
                "`kd_learning_rate_factor` is for the optimizer sgd: choose it by `optimizer`. "
                f"Received: optimizer={self.optimizer}"
            )

    @classmethod
    def of(cls, settings, learning_rate, epochs, batch_size, **options):
        """The schedule of a data set's `Settings`, with milestones scaled to the epochs.

        Args:
            settings: `Settings`.
            learning_rate: Learning rate of the first epochs.
            epochs: Number of epochs.
            batch_size: Images in a step.
            **options: Other attributes.

        Returns:
            `Schedule`.
        """
        milestones = ()
        if options.get("schedule") != "cosine":
            milestones = optimizers.scale_milestones(
                settings.milestones, epochs, settings.milestones_of or settings.epochs
            )
        options = {"weight_decay": settings.weight_decay, **options}
        return cls(epochs, learning_rate, tuple(milestones), batch_size, **options)

    def scaled_from(self, batch_size, warm_up_epochs=None):
        """The schedule for its batch size, where its learning rate is for another one.

        The linear rule of Goyal et al. 2017, "Accurate, Large Minibatch SGD", for SGD: with k times
        the batch size, k times the learning rate; epochs, milestones and weight decay stay. Their
        warm-up is 5 of 90 epochs, from the rate of the smaller batch. Here it starts near 0, and a
        shorter training has as large a share of it.

        Args:
            batch_size: Images in a step that the learning rate is for.
            warm_up_epochs: Warm-up epochs; `None` for those of the rule where k is more than 1.

        Returns:
            `Schedule`.

        Raises:
            ValueError: If the optimizer is not SGD.
        """
        if self.optimizer != "sgd":
            raise ValueError(
                "`scale_learning_rate` is a rule for the optimizer sgd: choose it by `optimizer`. "
                f"Received: optimizer={self.optimizer}"
            )
        scale = self.batch_size / batch_size
        if warm_up_epochs is None:
            warm_up_epochs = self.warm_up_epochs
            if scale > 1 and self.epochs > 1:
                warm_up_epochs = max(warm_up_epochs, min(5, math.ceil(self.epochs / 18)))
        return replace(
            self,
            learning_rate=scale * self.learning_rate,
            warm_up_epochs=warm_up_epochs,
            learning_rate_scale=scale,
        )

    def quantization_aware(self, epochs):
        """The schedule by which a network is trained further under fake quantization.

        Args:
            epochs: Number of epochs.

        Returns:
            `Schedule`: a cosine from a hundredth of this learning rate, without warm-up.
        """
        return replace(
            self,
            epochs=epochs,
            learning_rate=self.learning_rate / 100,
            milestones=(),
            schedule="cosine",
            warm_up_epochs=0,
        )

    def config(self):
        """The schedule as a JSON-like dictionary."""
        return {**asdict(self), "milestones": list(self.milestones)}

    @classmethod
    def from_config(cls, config):
        """The schedule of such a dictionary."""
        return cls(**{**config, "milestones": tuple(config["milestones"])})

    def check_warm_up(self, whose):
        """Refuse a warm-up that is as long as the training.

        It is not refused before there is a training: a schedule may never be used.

        Args:
            whose: `"teacher"`, `"student"` or `"training"`, for the error.

        Raises:
            ValueError: If it is so long.
        """
        if self.warm_up_epochs and self.warm_up_epochs >= self.epochs:
            raise ValueError(
                f"`warm_up_epochs` must be less than the {self.epochs} epochs of the {whose}. "
                f"Received: warm_up_epochs={self.warm_up_epochs}"
            )

    def learning_rates(self, steps):
        """The learning rate of each step, for epochs of so many steps."""
        self.check_warm_up("training")
        if self.schedule == "cosine":
            rates = keras.optimizers.schedules.CosineDecay(self.learning_rate, self.epochs * steps)
        else:
            rates = optimizers.epoch_decay(self.learning_rate, self.milestones, steps)
        if self.warm_up_epochs:
            rates = optimizers.WarmUp(rates, self.warm_up_epochs * steps)
        return rates

    def make_optimizer(self, steps):
        """A new optimizer for epochs of so many steps."""
        rates, options = self.learning_rates(steps), {}
        if self.ema is not None:
            options = {"use_ema": True, "ema_momentum": self.ema}
        if self.clip_norm is not None:
            options["global_clipnorm"] = self.clip_norm
        if self.optimizer == "sgd":
            if self.kd_learning_rate_factor != 1:
                names = ("kd_penultimate", "kd_intermediate")
                options["learning_rate_factors"] = dict.fromkeys(
                    names, self.kd_learning_rate_factor
                )
            return optimizers.TorchSGD(
                rates,
                momentum=self.momentum,
                nesterov=True,
                weight_decay=self.weight_decay,
                **options,
            )
        optimizer = keras.optimizers.AdamW(rates, weight_decay=self.weight_decay, **options)
        optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma", "scale"])
        return optimizer

    def loss(self, one_hot):
        """The cross-entropy of logits.

        Args:
            one_hot: Whether labels are [B, classes]; otherwise integers [B].

        Returns:
            A `keras.losses.Loss`.
        """
        if one_hot:
            return keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=self.label_smoothing
            )
        if self.label_smoothing:
            return SmoothedCrossentropy(self.label_smoothing)
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def precision(self):
        """The scope in which networks and distillers are made for a training of this precision."""
        if self.mixed_precision is None:
            return nullcontext()
        return dtype_policy(f"mixed_{self.mixed_precision}")
