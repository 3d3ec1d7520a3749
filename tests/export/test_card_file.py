"""Cards written by hand, since they may come from anybody."""

import json

import pytest

from letkd_keras.export.card_file import options_of, read_card, write_labels

_ARTIFACT = {
    "file": "student.tflite",
    "sha256": "0",
    "tolerance": 1e-4,
    "min_agreement": 1,
    "min_accuracy": None,
}
_INPUTS = {
    "kind": "normalized",
    "shape": [None, 24, 3],
    "checked_size": [2**14, 1],
    "mean": [0.5, 0, 1],
    "std": [0.25, 1, 2],
    "crop": 0.875,
}
_CARD = {
    "student": "a",
    "artifacts": {"tflite": _ARTIFACT},
    "inputs": _INPUTS,
    "outputs": {"kind": "probabilities"},
}


def _read(folder, card):
    (folder / "card.json").write_text(json.dumps(card))
    return read_card(folder)


@pytest.mark.parametrize("changes", [{}, {"crop": 1}, {"mean": None, "std": None}])
def test_options_are_those_of_the_card(changes, tmp_path):
    inputs = {**_INPUTS, **changes}
    card = _read(tmp_path, {**_CARD, "inputs": inputs})
    mean, std = (inputs[key] and tuple(inputs[key]) for key in ("mean", "std"))
    expected = {"mean": mean, "std": std, "crop": inputs["crop"]}
    options = options_of(card)
    assert (options.input, options.output) == ("normalized", "probabilities")
    assert {key: getattr(options, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student": 3}, "does not describe a student and its artifacts"),
        ({"artifacts": [_ARTIFACT]}, "does not describe a student and its artifacts"),
        ({"outputs": "logits"}, "`outputs` must have one of logits, probabilities"),
        ({"outputs": {"kind": "scores"}}, "`outputs` must have one of logits, probabilities"),
        ({"inputs": None}, "`inputs` must have checked_size, crop, kind, mean, shape, std"),
        *(({"class_names": names}, "`class_names` must be a list") for names in (2, "ab", [0, 1])),
    ],
)
def test_a_damaged_card_is_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        _read(tmp_path, {**_CARD, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "bgr"}, "`inputs` must have"),
        *(({"crop": crop}, "`crop` must be") for crop in (0, 1.01, "1", True, None, float("nan"))),
        *(({"crop": crop}, "`crop` must be") for crop in (9e-5, 10**400)),
        *(({"shape": [size, 8, 3]}, "`shape` must be") for size in (0, -1, 2**14 + 1, 1.5, "8")),
        ({"shape": []}, "`shape` must be a list of sizes"),
        *(({"checked_size": sizes}, "`checked_size` must") for sizes in ([None, 8], [0, 8], 8)),
        ({"mean": None}, "`mean` and `std` must be"),
        ({"std": None}, "`mean` and `std` must be"),
        ({"mean": [], "std": []}, "`mean` and `std` must be"),
        ({"mean": 0.5}, "`mean` and `std` must be"),
        *(({"std": [std, 1, 1]}, "`mean` and `std` must") for std in (0, -1, True, "1", None)),
        ({"mean": [float("inf"), 1, 1]}, "`mean` and `std` must be"),
    ],
)
def test_damaged_inputs_are_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        _read(tmp_path, {**_CARD, "inputs": {**_INPUTS, **changes}})


@pytest.mark.parametrize("key", sorted(_INPUTS))
def test_inputs_that_are_missing_are_named(key, tmp_path):
    inputs = {name: value for name, value in _INPUTS.items() if name != key}
    with pytest.raises(ValueError, match=f"of an earlier version: `inputs` must have .*{key}"):
        _read(tmp_path, {**_CARD, "inputs": inputs})


@pytest.mark.parametrize("key", ["tolerance", "min_agreement", "min_accuracy"])
@pytest.mark.parametrize("value", [True, "1", [1], 10**400])
def test_limits_are_numbers(key, value, tmp_path):
    artifacts = {"tflite": {**_ARTIFACT, key: value}}
    with pytest.raises(ValueError, match=f"`{key}` of tflite must be a number or null"):
        _read(tmp_path, {**_CARD, "artifacts": artifacts})


def test_the_last_class_ends_its_line(tmp_path):
    write_labels(tmp_path, ["a", "b"])
    assert (tmp_path / "labels.txt").read_text() == "a\nb\n"
