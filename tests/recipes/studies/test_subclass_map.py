import keras
import numpy as np
from matplotlib.figure import Figure

from letkd_keras.prototypes import IntermediatePrototypes, Prototypes, pictures
from letkd_keras.recipes.studies import subclass_map


def _prototypes():
    """Two classes of two sub-classes in one dimension: at -3, -1 and at 1, 3."""
    return IntermediatePrototypes(
        layer="maps",
        grid=(2, 2),
        pool_size=1,
        lda_mean=np.zeros(1, "float32"),
        lda_scalings=np.ones((1, 1), "float32"),
        centers=np.array([[-3], [-1], [1], [3]], "float32"),
        subclass_scores=np.array(
            [[1, 0, 0, 0], [0, 0.7, 0.3, 0], [0, 0.4, 0.6, 0], [0, 0, 0, 1]], "float32"
        ),
        num_classes=2,
        subclasses=2,
    )


def _teacher():
    inputs = keras.Input((2, 2, 1))
    maps = keras.layers.Identity(name="maps")(inputs)
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(maps)))


def test_subclasses_by_hand():
    images = np.array([[[-4, -2.5], [-0.5, 9]], [[-9, 0.5], [1.5, 2.5]]], "float32")[..., None]
    # Whatever a location looks like, its sub-class is one of the image's class.
    own = pictures.own_subclasses(
        Prototypes(None, _prototypes()), _teacher(), images, np.array([0, 1])
    )
    assert own.tolist() == [[[0, 0], [1, 1]], [[0, 0], [0, 1]]]


def test_subclasses_of_tokens_are_on_the_grid_of_their_patches():
    """Four patches of one pixel behind a token that is no patch."""
    inputs = keras.Input((2, 2, 1))
    patches = keras.layers.Conv2D(1, 1, kernel_initializer="ones", use_bias=False)(inputs)
    tokens = keras.layers.Reshape((4, 1))(patches)
    tokens = keras.layers.ZeroPadding1D((1, 0), name="maps")(tokens)
    outputs = keras.layers.Dense(2)(keras.layers.Flatten()(tokens))
    images = np.array([[[-4, -2.5], [-0.5, 9]]], "float32")[..., None]
    labels, prototypes = np.array([0]), Prototypes(None, _prototypes())
    own = pictures.own_subclasses(prototypes, keras.Model(inputs, outputs), images, labels)
    np.testing.assert_array_equal(
        own, pictures.own_subclasses(prototypes, _teacher(), images, labels)
    )


def test_the_histogram_is_over_all_subclasses():
    class Data:
        mean, std, class_names, num_classes = (0.5,), (0.25,), ("cat", "$d_$"), 2

    images = np.zeros((2, 4, 4, 1), "float32")
    labels, prototypes = np.array([0, 1]), _prototypes()
    own = np.broadcast_to(np.array([1, 0])[:, None, None], (2, 2, 2))
    figure = subclass_map.draw(images, labels, own, prototypes, Data)
    assert isinstance(figure, Figure)
    for row, expected in ((0, prototypes.subclass_scores[1]), (1, prototypes.subclass_scores[2])):
        axis = figure.axes[3 * row + 2]
        np.testing.assert_allclose([bar.get_height() for bar in axis.patches], expected)
        assert [label.get_text() for label in axis.get_xticklabels()] == ["cat", "$d_$"]
    assert figure.axes[0].get_title() == "cat"
    figure.draw_without_rendering()  # a name may be no mathematics
