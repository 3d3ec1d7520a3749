import json
from argparse import Namespace
from dataclasses import replace

import keras
import numpy as np
import pytest
from image_trees import write_tree
from small_image_data import image_data

from letkd_keras.commands.command_line import Parser
from letkd_keras.commands.common_options import add_data_options
from letkd_keras.commands.option_types import option_of
from letkd_keras.commands.run_folder import RunFolder
from letkd_keras.data import DataSpec
from letkd_keras.data.npz import save_npz
from letkd_keras.export import data_of_student
from letkd_keras.export.data_of_student import open_data


def _options(*arguments):
    parser = Parser("test", "")
    add_data_options(parser)
    return parser.parse_args(list(map(str, arguments)))


@pytest.mark.parametrize("inside", [".", "letkd2/seed3", "letkd2/seed3/student.keras"])
def test_data_of_a_run_are_opened_as_in_training(run, inside):
    opened = open_data(run / inside, _options())
    assert opened.data.mean == (0, 0, 0)
    assert opened.data.train_examples == 45
    assert opened.data.has_validation
    again = DataSpec.from_config(opened.config).open()
    np.testing.assert_array_equal(again.x_validation, opened.data.x_validation)
    recorded = {name: getattr(opened.data, name) for name in ("name", "split", "digest")}
    assert {**recorded, "mean": [0.0] * 3, "std": [1.0] * 3}.items() <= opened.config.items()


def test_changed_data_of_a_run_are_refused(run, data_file):
    data = image_data()
    save_npz(replace(data, y_train=data.y_train[::-1]), data_file)
    with pytest.raises(ValueError, match=r"data set .*blocks.npz has changed since"):
        open_data(run, _options())


def _run_on(spec, path):
    """A run folder that has recorded these data."""
    return RunFolder(path, {"data": {**spec.config(), "digest": spec.open().digest}}).path


@pytest.mark.parametrize("source", ["{}", "imagenet:{}"])
def test_data_of_a_run_on_a_folder_of_images(tmp_path, source):
    tree = tmp_path / "tree"
    write_tree(tree / "train", images=8, size=(40, 40))
    write_tree(tree / "val", images=3, size=(40, 40))
    spec = DataSpec(source.format(tree), image_size=16, pixels="-1..1")
    run = _run_on(spec, tmp_path / "run")
    opened = open_data(run, _options())
    assert (opened.data.image_shape, opened.data.mean) == ((16, 16, 3), (0.5,) * 3)
    (tree / "val" / "cat" / "0.png").unlink()
    with pytest.raises(ValueError, match="has changed since"):
        open_data(run, _options())
    tree.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=rf"no longer in {tree}: name .* with --data$"):
        open_data(run, _options())


def test_a_label_file_that_was_moved_is_named_without_the_data(tmp_path):
    tree, labels = write_tree(tmp_path / "tree"), tmp_path / "labels.csv"
    rows = [f"{name}/{number}.png,{name[0]}" for name in ("ant", "bee") for number in range(5)]
    labels.write_text("\n".join(["file,label", *rows]))
    spec = DataSpec(str(tree), image_size=16, labels=str(labels))
    run = _run_on(spec, tmp_path / "run")
    labels.rename(tmp_path / "moved.csv")
    with pytest.raises(FileNotFoundError, match=r"`labels` must be an existing file.*labels\.csv"):
        open_data(run, _options())
    opened = open_data(run, _options("--labels", tmp_path / "moved.csv"))
    assert opened.data.class_names == ("a", "b")
    assert opened.config["labels"] == str(tmp_path / "moved.csv")
    (tmp_path / "moved.csv").write_text("\n".join(["file,label", *rows[:-1]]))
    with pytest.raises(ValueError, match="has changed since"):
        open_data(run, _options("--labels", tmp_path / "moved.csv"))


def test_images_and_labels_that_were_moved_are_asked_for(tmp_path, caplog):
    tree, labels = tmp_path / "tree", tmp_path / "labels.csv"
    write_tree(tree / "all")  # no folder for each class
    rows = [f"all/{name}/{number}.png,{name[0]}" for name in ("ant", "bee") for number in range(5)]
    labels.write_text("\n".join(["file,label", *rows]))
    spec = DataSpec(str(tree), image_size=16, labels=str(labels))
    run = _run_on(spec, tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="`data` must have a folder for each"):
        open_data(run, _options("--data", tmp_path / "empty"))
    tree.rename(tmp_path / "moved")
    labels.rename(tmp_path / "moved.csv")
    message = rf"images of the run are no longer in {tree}: .*--data \(.*--labels\)"
    with pytest.raises(FileNotFoundError, match=message):
        open_data(run, _options())
    options = _options("--data", tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=rf"no longer in {labels}: .* with --labels"):
        open_data(run, options)
    options = _options("--data", tmp_path / "moved", "--labels", tmp_path / "moved.csv")
    assert open_data(run, options).data.class_names == ("a", "b")
    # They are those of the run. Other tests of the process may have turned on the lines of the log.
    assert all(record.levelname == "INFO" for record in caplog.records)
    (tmp_path / "moved.csv").write_text("")
    with pytest.raises(ValueError, match="`labels` must be a CSV file"):
        open_data(run, options)


def test_images_without_labels_are_not_needed(tmp_path, data_file, caplog):
    more = str(write_tree(tmp_path / "more"))
    spec = DataSpec(str(data_file), unlabelled=more, skip_corrupt=True)
    run = _run_on(spec, tmp_path / "run")
    assert open_data(run, _options()).data.train_examples == 60
    assert caplog.text == ""
    (tmp_path / "more").rename(tmp_path / "moved")
    opened = open_data(run, _options())
    assert opened.data.train_examples == 60
    assert "images without labels are no longer in" in caplog.text
    assert DataSpec.from_config(opened.config).open().digest == opened.config["digest"]
    # Of a folder, corrupt images are skipped as before.
    tree = write_tree(tmp_path / "tree")
    (tree / "ant" / "0.png").write_text("no image")
    config = {"source": str(tree), "image_size": 16, "unlabelled": more, "skip_corrupt": True}
    run = RunFolder(tmp_path / "other", {"data": config}).path
    assert open_data(run, _options()).config["skip_corrupt"]
    run = RunFolder(tmp_path / "strict", {"data": {**config, "skip_corrupt": False}}).path
    with pytest.raises(ValueError, match="is damaged or not an image"):
        open_data(run, _options())


def test_data_that_are_no_path_have_their_own_error(monkeypatch):
    def refuse(config):
        raise ValueError("must be downloaded first")

    monkeypatch.setattr(data_of_student, "_spec_of_run", refuse)
    with pytest.raises(ValueError, match="must be downloaded first"):
        data_of_student._open_at_its_place({"source": "tiny_imagenet"})


@pytest.fixture
def run_on_a_tree(tmp_path):
    """A run on a tree that is split by its seed, `(run folder, data)`; the tree was moved."""
    tree = write_tree(tmp_path / "tree", images=20)
    options = {"image_size": 16, "classes": 2, "validation_fraction": 0.25, "seed": 7}
    spec = DataSpec(str(tree), **options)
    data = spec.open()
    config = {**spec.config(), "digest": data.digest, "mean": [0.3] * 3, "std": [0.6] * 3}
    tree.rename(tmp_path / "moved")
    return RunFolder(tmp_path / "run", {"data": config}).path, data


def test_images_that_were_moved_are_opened_as_in_training(run_on_a_tree, tmp_path, caplog):
    run, data = run_on_a_tree
    opened = open_data(run, _options("--data", tmp_path / "moved"))
    assert opened.data.digest == data.digest
    assert opened.data.mean == (0.3,) * 3
    assert opened.config["source"] == str(tmp_path / "moved")
    assert (opened.config["seed"], opened.config["digest"]) == (7, data.digest)
    assert caplog.text == ""


def test_options_select_among_images_that_were_moved(run_on_a_tree, tmp_path, caplog):
    run, data = run_on_a_tree
    options = _options("--data", tmp_path / "moved", "--test-examples", 4, "--pixels", "0..1")
    opened = open_data(run, options)
    assert opened.data.test_examples == 4
    assert opened.data.mean == (0,) * 3
    tested = {image.tobytes() for image in data.x_test}
    assert {image.tobytes() for image in opened.data.x_test} < tested
    assert caplog.text == ""
    options = _options("--data", tmp_path / "moved", "--classes", 3)
    with pytest.raises(ValueError, match=r"the 2 classes of the student\. Received: 3"):
        open_data(run, options, _student(classes=2))


def test_other_images_than_those_of_the_run_are_opened_with_a_warning(
    run_on_a_tree, tmp_path, caplog
):
    run, _ = run_on_a_tree
    (tmp_path / "moved" / "ant" / "0.png").unlink()
    options = _options("--data", tmp_path / "moved", "--image-size", 32)
    opened = open_data(run, options)
    assert opened.data.image_shape == (32, 32, 3)
    assert opened.data.class_names == ("ant", "bee", "cat")
    assert (opened.config["seed"], opened.data.has_validation) == (0, False)
    assert "moved are other ones than those of the run" in caplog.text


def _other_data():
    return image_data(mean=(0.1,) * 3, y_test=np.repeat(np.arange(5), 6)[::-1])


def test_other_data_are_named_by_the_command(run, tmp_path):
    save_npz(_other_data(), tmp_path / "other.npz")
    opened = open_data(run, _options("--data", tmp_path / "other.npz"))
    assert opened.data.mean == (0.1,) * 3


def test_other_data_are_normalized_as_in_training(run, tmp_path):
    config = json.loads((run / "config.json").read_text())
    config["data"] |= {"mean": [0.3] * 3, "std": [0.6] * 3}
    (run / "config.json").write_text(json.dumps(config))
    save_npz(_other_data(), tmp_path / "other.npz")
    opened = open_data(run, _options("--data", tmp_path / "other.npz"))
    assert (opened.data.mean, opened.data.std) == ((0.3,) * 3, (0.6,) * 3)
    opened = open_data(run, _options("--data", tmp_path / "other.npz", "--pixels", "0..1"))
    assert opened.data.mean == (0,) * 3


def _student(*first, classes=5):
    inputs = keras.Input((16, 16, 3))
    x = inputs
    for layer in (*first, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(classes)):
        x = layer(x)
    return keras.Model(inputs, x)


def test_a_student_that_rescales_pixels_gets_pixels(tmp_path, data_file, caplog):
    student = _student(keras.layers.Rescaling(1 / 127.5, offset=-1))
    options = _options("--data", data_file)
    opened = open_data(tmp_path / "student.keras", options, student)
    assert (opened.data.mean, opened.data.std) == ((0,) * 3, (1 / 255,) * 3)
    assert DataSpec.from_config(opened.config).open().std == (1 / 255,) * 3
    assert caplog.text == ""
    options = _options("--data", data_file, "--pixels", "-1..1")
    opened = open_data(tmp_path / "student.keras", options, student)
    assert opened.data.mean == (0.5,) * 3


def test_the_normalization_of_another_file_is_assumed_with_a_warning(tmp_path, data_file, caplog):
    options = _options("--data", data_file)
    opened = open_data(tmp_path / "student.keras", options, _student())
    assert opened.data.mean == image_data().mean
    assert "assumed to take images with the mean and standard deviation of blocks" in caplog.text
    assert opened.is_assumed
    caplog.clear()
    open_data(tmp_path / "student.keras", _options("--data", data_file, "--pixels=0..1"))
    assert caplog.text == ""


@pytest.mark.parametrize("source", ["{}", "imagenet:{}"])
def test_images_of_a_folder_get_the_size_of_the_student(source, tmp_path):
    for part in ("train", "val"):
        write_tree(tmp_path / "tree" / part, size=(40, 40))
    tree = source.format(tmp_path / "tree")
    file, options = tmp_path / "student.keras", _options("--data", tree)
    opened = open_data(file, options, _student(classes=3))
    assert opened.data.image_shape == (16, 16, 3)
    assert opened.config["image_size"] == 16
    options = _options("--data", tree, "--image-size", 24)
    message = r"images of --data .* takes, \(16, 16, 3\)\. --image-size .* shape \(24, 24, 3\)"
    with pytest.raises(ValueError, match=message):
        open_data(file, options, _student(classes=3))


@pytest.mark.parametrize("classes", [3, 7])
def test_images_of_other_classes_are_refused(classes, tmp_path, data_file):
    student, options = _student(classes=classes), _options("--data", data_file)
    message = rf"images of --data must have the {classes} classes of the student\. Received: 5 cl"
    with pytest.raises(ValueError, match=message):
        open_data(tmp_path / "student.keras", options, student)


def test_photos_in_color_are_refused_for_a_student_of_gray_ones(tmp_path):
    inputs = keras.Input((16, 16, 1))
    student = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))
    options = _options("--data", write_tree(tmp_path / "tree"))
    with pytest.raises(ValueError, match=r"takes, \(16, 16, 1\).*Received: images of shape"):
        open_data(tmp_path / "student.keras", options, student)


def test_a_student_of_a_run_gets_images_as_in_training(run, tmp_path, caplog):
    config = json.loads((run / "config.json").read_text())
    config["data"] |= {"mean": [0.3] * 3, "std": [0.6] * 3}
    (run / "config.json").write_text(json.dumps(config))
    student = _student(keras.layers.Rescaling(1 / 127.5, offset=-1))
    save_npz(_other_data(), tmp_path / "other.npz")
    options = _options("--data", tmp_path / "other.npz")
    assert open_data(run, options, student).data.mean == (0.3,) * 3
    assert "assumed" not in caplog.text


@pytest.mark.parametrize("name", ["data_dir", "image_cache", "labels"])
def test_places_of_images_without_the_data_are_refused(name, tmp_path):
    options = _options(option_of(name), tmp_path / "place")
    with pytest.raises(ValueError, match=rf"`{name}` needs `data`.*other\.keras' is no run folder"):
        open_data(tmp_path / "other.keras", options)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *(("image_size", [16]), ("pixels", ["0..255"]), ("classes", [2]), ("train_examples", [5])),
        *(("test_examples", [5]), ("validation_fraction", [0.5]), ("skip_corrupt", [])),
    ],
)
def test_selections_without_the_data_are_refused(name, values, run):
    with pytest.raises(ValueError, match=f"`{name}` needs `data`; without it"):
        open_data(run, _options(option_of(name), *values))


def test_no_data(tmp_path):
    assert open_data(tmp_path / "student.keras", _options()) is None


def test_data_of_a_sweep(sweep):
    assert open_data(sweep, _options()).data.name == "blocks"
    assert open_data(sweep / "reduced.keras", _options()).data.name == "blocks"
    # A student beside it is that of the folder, which the sweep does not describe.
    (sweep / "student.keras").write_text("")
    assert open_data(sweep, _options()) is None
    (sweep / "student.keras").unlink()
    (sweep / "sweep.json").write_text("[]")
    with pytest.raises(ValueError, match=r"sweep.json is damaged"):
        open_data(sweep, Namespace(data=None))


@pytest.mark.parametrize(("folder", "file"), [("run", "config.json"), ("sweep", "sweep.json")])
def test_recorded_data_that_are_damaged(folder, file, request):
    folder = request.getfixturevalue(folder)
    recorded = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**recorded, "data": "digits"}))
    with pytest.raises(ValueError, match=rf"^{file} of .* is damaged: it does not describe a data"):
        open_data(folder, _options())
