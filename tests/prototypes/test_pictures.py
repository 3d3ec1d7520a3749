import dataclasses
import struct

import numpy as np
import pytest
from matplotlib.figure import Figure
from small_problem import SIZES, small_images

from letkd_keras.prototypes import fit_prototypes, pictures
from letkd_keras.prototypes.__main__ import main
from letkd_keras.prototypes.pictures import (
    _in_the_plane,
    draw,
    draw_confusion,
    draw_subclass_maps,
    draw_templates,
)

# One of them is no mathematics.
NAMES = ("red", "$g_$", "blue", "grey", "brown")


@pytest.fixture(scope="module")
def fitted():
    from small_problem import small_teacher

    teacher, (x, y) = small_teacher(), small_images()
    return teacher, fit_prototypes(teacher, (x, y), **SIZES, class_names=NAMES), (x, y)


def _size(path):
    """Width and height from the header of a PNG file."""
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", header[16:])


def test_all_pictures_are_drawn(tmp_path, fitted):
    teacher, prototypes, data = fitted
    paths = draw(prototypes, tmp_path / "new", teacher, data)
    assert [path.name for path in paths] == ["templates.png", "confusion.png", "subclass_maps.png"]
    assert all(min(_size(path)) > 500 for path in paths)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(
        path.name for path in paths
    )


def test_without_teacher_or_intermediate_level_the_rest_is_drawn(tmp_path, fitted, teacher):
    _, prototypes, data = fitted
    assert len(draw(prototypes, tmp_path)) == 2
    letkd_1 = fit_prototypes(teacher(), data, **SIZES, levels=("penultimate",))
    assert [path.name for path in draw(letkd_1, tmp_path, teacher(), data)] == ["templates.png"]


def test_templates_bear_their_classes(fitted):
    _, prototypes, _ = fitted
    classes = prototypes.manifest["health"]["penultimate"]["template_classes"]
    figure = draw_templates(prototypes, NAMES)
    left, right = figure.axes
    assert "12 penultimate templates" in left.get_title() and "PCA" in left.get_xlabel()
    assert "15 sub-class centers" in right.get_title() and "PCA" in right.get_xlabel()
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} <= set(NAMES)
    colors = left.collections[0].get_facecolors()
    assert len(np.unique(colors, axis=0)) == len(set(classes))
    for label in set(classes):
        of_class = colors[np.array(classes) == label]
        np.testing.assert_array_equal(of_class, np.broadcast_to(of_class[0], of_class.shape))
    assert {text.get_text() for text in right.texts} <= set(NAMES)


def test_many_templates_are_laid_out_by_their_neighbours():
    r = np.random.default_rng(0)
    centers = (r.standard_normal((3, 1, 8)) * 20 + r.standard_normal((3, 20, 8))).reshape(60, 8)
    positions, how = _in_the_plane(centers.astype("float32"))
    assert how == "t-SNE"
    middles = positions.reshape(3, 20, 2).mean(axis=1)
    nearest = np.linalg.norm(positions[:, None] - middles, axis=-1).argmin(axis=1)
    np.testing.assert_array_equal(nearest, np.repeat(np.arange(3), 20))


def test_confusion_shows_the_scores_and_names_the_strongest(fitted):
    _, prototypes, _ = fitted
    intermediate = prototypes.intermediate
    figure = draw_confusion(intermediate, NAMES)
    by_class = intermediate.subclass_scores.reshape(5, 3, 5, 3).sum(axis=3).mean(axis=1)
    shown = figure.axes[1].images[0].get_array()
    names = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == names
    assert all(axis.get_xlabel() and axis.get_ylabel() for axis in figure.axes[:2])
    order = [NAMES.index(name) for name in names]
    assert sorted(order) == list(range(5))
    expected = by_class[np.ix_(order, order)]
    np.testing.assert_allclose(shown[expected > 0], expected[expected > 0], rtol=1e-5)
    assert (shown[expected == 0] == shown.min()).all()
    np.fill_diagonal(by_class, 0)
    first, second = np.unravel_index(by_class.argmax(), by_class.shape)
    strongest = figure.axes[2].get_yticklabels()[0].get_text()
    assert strongest == f"{NAMES[first]} → {NAMES[second]}"


def test_only_classes_that_are_confused_are_listed_as_pairs(fitted):
    _, prototypes, _ = fitted
    scores = np.eye(15, dtype="float32")
    intermediate = dataclasses.replace(prototypes.intermediate, subclass_scores=scores)
    assert not draw_confusion(intermediate, NAMES).axes[2].get_yticklabels()
    scores[3:6] = 0
    scores[3:6, 0] = 1  # class 1 is taken for class 0
    labels = draw_confusion(intermediate, NAMES).axes[2].get_yticklabels()
    assert [label.get_text() for label in labels] == [f"{NAMES[1]} → {NAMES[0]}"]


def test_maps_and_histograms_are_those_of_the_method(fitted, monkeypatch):
    monkeypatch.setattr(pictures, "_IMAGES", 2)
    teacher, prototypes, (x, y) = fitted
    intermediate = prototypes.intermediate
    figure = draw_subclass_maps(prototypes, teacher, (x / 2, y), lambda images: images * 2, NAMES)
    rows = np.array(figure.axes).reshape(2, 5)
    assert [row[0].get_title() for row in rows] == ["red", "brown"]
    import keras

    first = keras.Model(teacher.inputs, teacher.get_layer("intermediate").output)
    z = intermediate.project(np.asarray(first(x[:1])).reshape(16, 6))
    own = np.linalg.norm(z[:, None] - intermediate.centers[:3], axis=-1).argmin(axis=1)
    largest = np.bincount(own).argmax()
    share = np.mean(own == largest)
    assert rows[0, 2].get_title() == f"target of {largest} ({share:.0%} of the image)"
    bars = [bar.get_width() for bar in rows[0, 2].patches]
    expected = np.sort(intermediate.subclass_scores[largest])[::-1][: len(bars)]
    np.testing.assert_allclose(bars, expected, rtol=1e-6)
    overlay = rows[0, 1].images[0].get_array()
    assert overlay.shape == (8, 8, 3)


def test_another_teacher_is_refused(tmp_path, fitted, teacher):
    _, prototypes, data = fitted
    with pytest.raises(ValueError, match="another teacher"):
        draw(prototypes, tmp_path, teacher(seed=1), data)
    with pytest.raises(ValueError, match="another teacher"):
        draw(prototypes, tmp_path, teacher(seed=1))
    assert not list(tmp_path.iterdir())


def test_images_of_any_range_are_shown_as_colors():
    image = np.array([[[-3.0], [1.0]]])
    np.testing.assert_array_equal(pictures._displayed(image), [[[0] * 3, [1] * 3]])
    np.testing.assert_array_equal(pictures._displayed(np.full((1, 1, 3), 7)), np.zeros((1, 1, 3)))
    colors = np.array([[[0.0, 128.0, 255.0]]])
    np.testing.assert_allclose(pictures._displayed(colors), colors / 255)
    np.testing.assert_array_equal(pictures._displayed(np.ones((1, 1, 2)) * [0, 4]), [[[0] * 3]])


def test_each_class_is_shown_by_its_first_image():
    images = np.arange(12, dtype="float32").reshape(6, 1, 1, 2)
    batches = [(images[:2], np.array([2, 2])), (images[2:], np.array([2, 0, 2, 0]))]
    shown, labels = pictures.one_of_each_class(batches, 3, 6)  # no image of class 1
    np.testing.assert_array_equal(labels, [0, 2])
    np.testing.assert_array_equal(shown, images[[3, 0]])
    shown, labels = pictures.one_of_each_class(batches, 3, 1)
    np.testing.assert_array_equal(labels, [0])


def test_sub_classes_are_laid_over_their_part_of_the_picture():
    axis, colors = Figure().subplots(), np.eye(4)[:3]
    subclasses = np.array([[0, 1, 2], [2, 2, 0]])
    pictures._overlay(axis, np.ones((4, 6, 3)), subclasses, colors)
    shown = axis.images[0].get_array()
    expected = subclasses.repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(shown.argmax(axis=-1), expected)


@pytest.mark.parametrize("shape", [(1, 4), (3, 1), (5, 4)])
def test_few_templates_are_laid_out_in_as_many_directions_as_they_have(shape):
    centers = np.random.default_rng(0).standard_normal(shape).astype("float32")
    positions, how = _in_the_plane(centers)
    assert (positions.shape, how) == ((shape[0], 2), "PCA")
    assert np.isfinite(positions).all()


def test_templates_of_unknown_classes_are_gray(fitted):
    _, prototypes, _ = fitted
    unknown = dataclasses.replace(prototypes, manifest={}, intermediate=None)
    figure = draw_templates(unknown, NAMES)
    (axis,) = figure.axes
    np.testing.assert_array_equal(axis.collections[0].get_facecolors()[:, :3], 0.75)
    assert not axis.texts
    assert not figure.legends  # nor a warning of an empty one


def test_tiny_shares_do_not_stretch_the_colors_of_a_matrix():
    figure = Figure()
    for smallest, expected in ((1e-12, 1e-4), (0.01, 0.01)):
        axis = figure.subplots()
        pictures._heat_map(axis, np.array([[1, smallest], [0, 1]]), "")
        assert axis.images[0].norm.vmin == expected


@pytest.mark.parametrize("classes", [1, 2])
def test_one_or_two_classes_keep_their_order(classes):
    np.testing.assert_array_equal(pictures._confused_together(np.eye(classes)), range(classes))


def test_one_command_draws_them(tmp_path, fitted, capsys):
    _, prototypes, _ = fitted
    prototypes.save(tmp_path / "prototypes.npz")
    folder = tmp_path / "pictures"
    main(["--inspect", str(tmp_path / "prototypes.npz"), "--pictures", str(folder)])
    assert capsys.readouterr().out.count(str(folder)) == 2
    assert _size(folder / "confusion.png")[0] > 1000
