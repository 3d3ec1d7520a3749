import keras

from letkd_keras.recipes.trainings.schedule import Schedule


def small_model():
    """A network for the digits in 32x32 pixels, always with the same weights."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, strides=4)(inputs)
    x = keras.layers.BatchNormalization()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(x)))


def small_schedule(**options):
    """Three epochs for it."""
    return Schedule(3, 0.05, (), batch_size=16, **options)
