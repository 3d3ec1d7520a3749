import json
from dataclasses import fields, replace

import keras
import numpy as np
import pytest
from encrypted_zip import encrypt
from small_problem import SIZES, small_images

from letkd_keras.functional import fingerprint
from letkd_keras.prototypes import (
    IntermediatePrototypes,
    PenultimatePrototypes,
    Prototypes,
    fit_prototypes,
)
from letkd_keras.prototypes.pictures import own_subclasses


def _prototypes(manifest=None, intermediate=True):
    r = np.random.default_rng(0)
    level_1 = PenultimatePrototypes("penultimate", (4, 4), 1, r.random((7, 8), "float32"))
    level_2 = IntermediatePrototypes(
        layer="intermediate",
        grid=(4, 4),
        pool_size=1,
        lda_mean=r.random(6, "float32"),
        lda_scalings=r.random((6, 3), "float32"),
        centers=r.random((10, 3), "float32"),
        subclass_scores=r.random((10, 10), "float32"),
        num_classes=5,
        subclasses=2,
    )
    return Prototypes(level_1, level_2 if intermediate else None, manifest or {"seed": 3})


@pytest.mark.parametrize("intermediate", [True, False])
def test_saved_and_loaded_they_are_the_same(tmp_path, intermediate):
    saved = _prototypes(intermediate=intermediate)
    saved.save(tmp_path / "new" / "prototypes.npz")
    loaded = Prototypes.load(tmp_path / "new" / "prototypes.npz")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["prototypes.npz"]
    assert loaded.manifest["seed"] == 3
    assert loaded.manifest["arrays"]["penultimate/centers"]["shape"] == [7, 8]
    for level in ("penultimate", "intermediate"):
        before, after = getattr(saved, level), getattr(loaded, level)
        if before is None:
            assert after is None
            continue
        for name in (f.name for f in fields(before)):
            expected, value = getattr(before, name), getattr(after, name)
            assert type(value) is type(expected)
            np.testing.assert_array_equal(value, expected)


def test_the_same_prototypes_are_the_same_bytes_also_after_a_round_trip(tmp_path):
    first, second, third = (tmp_path / name for name in "abc")
    prototypes = _prototypes()
    prototypes.save(first)
    by_column = np.asfortranarray(prototypes.penultimate.centers)
    replace(prototypes, penultimate=replace(prototypes.penultimate, centers=by_column)).save(second)
    Prototypes.load(first).save(third)
    assert first.read_bytes() == second.read_bytes() == third.read_bytes()


def test_they_are_equal_to_themselves_only():
    # Field by field, arrays would raise an error.
    first, second = _prototypes(), _prototypes()
    for one, other in (
        (first, second),
        (first.penultimate, second.penultimate),
        (first.intermediate, second.intermediate),
    ):
        assert one == one and one != other and len({one, other}) == 2


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "prototypes.npz"
    _prototypes().save(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        _prototypes(manifest={"seed": object()}).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_missing_truncated_and_foreign_files_are_told_apart(tmp_path):
    path = tmp_path / "prototypes.npz"
    with pytest.raises(FileNotFoundError, match="No prototypes at"):
        Prototypes.load(path)
    _prototypes().save(path)
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="truncated, damaged or of another kind"):
            Prototypes.load(path)
    path.write_bytes(whole)
    encrypt(path)
    with pytest.raises(ValueError, match=r"of another kind .*is encrypted"):
        Prototypes.load(path)
    np.savez(path, manifest=np.zeros(3), x=np.ones(2))
    with pytest.raises(ValueError, match="another kind"):
        Prototypes.load(path)
    np.savez(path, x=np.ones(2))
    with pytest.raises(ValueError, match="another kind"):
        Prototypes.load(path)
    np.savez(path, manifest=np.array({"pickled": 1}))
    with pytest.raises(ValueError, match="another kind"):
        Prototypes.load(path)
    np.savez(path, manifest=np.frombuffer(b"[1]", "uint8"))
    with pytest.raises(ValueError, match="another kind"):
        Prototypes.load(path)
    with path.open("wb") as file:
        np.save(file, np.ones(2))
    with pytest.raises(ValueError, match="another kind"):
        Prototypes.load(path)


def _rewrite(path, change):
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    manifest = json.loads(arrays["manifest"].tobytes())
    change(manifest, arrays)
    arrays["manifest"] = np.frombuffer(json.dumps(manifest).encode(), "uint8")
    np.savez(path, **arrays)


def test_a_changed_array_and_another_version_are_refused(tmp_path):
    path = tmp_path / "prototypes.npz"

    def touch(_, arrays):
        arrays["penultimate/centers"][2, 3] += 1e-6

    _prototypes().save(path)
    _rewrite(path, touch)
    with pytest.raises(ValueError, match="'penultimate/centers' does not match its checksum"):
        Prototypes.load(path)

    _prototypes().save(path)
    _rewrite(path, lambda manifest, _: manifest.update(format_version=99))
    with pytest.raises(ValueError, match="format version 99"):
        Prototypes.load(path)

    _prototypes().save(path)
    _rewrite(path, lambda _, arrays: arrays.pop("intermediate/centers"))
    with pytest.raises(ValueError, match="'intermediate/centers' does not match"):
        Prototypes.load(path)


def test_only_their_own_teacher_passes(teacher):
    own = teacher()
    prototypes = _prototypes({"teacher": {"name": "small", "fingerprint": fingerprint(own)}})
    prototypes.check_teacher(own)
    # Whatever else differs, it is another teacher.
    for other in ({"seed": 1}, {"seed": 1, "size": 12}, {"width": 7}):
        with pytest.raises(ValueError, match=r"another teacher.*'small' with fingerprint"):
            prototypes.check_teacher(teacher(**other))
    elsewhere = replace(prototypes.penultimate, layer="nowhere")
    with pytest.raises(ValueError, match=r"another teacher.*'small' with fingerprint"):
        replace(prototypes, penultimate=elsewhere).check_teacher(teacher(seed=1))


def _unnamed(relus=4, head_dropout=False):
    """A teacher of layers that Keras numbers, with neighbours of one shape."""
    inputs = x = keras.Input((8, 8, 3))
    for _ in range(relus):
        x = keras.layers.ReLU()(keras.layers.Conv2D(6, 3, padding="same")(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    if head_dropout:
        x = keras.layers.Dropout(0.1)(x)
    return keras.Model(inputs, keras.layers.Dense(5)(x), name="unnamed")


def test_layers_are_found_again_in_a_teacher_with_other_names(tmp_path):
    own = _unnamed()
    relus = [layer.name for layer in own.layers if isinstance(layer, keras.layers.ReLU)]
    layers = {"intermediate_layer": relus[1], "penultimate_layer": relus[2]}
    data = small_images()
    fit_prototypes(own, data, **SIZES, **layers).save(tmp_path / "prototypes.npz")
    prototypes = Prototypes.load(tmp_path / "prototypes.npz")
    names = {"penultimate": relus[2], "intermediate": relus[1]}
    assert prototypes.check_teacher(own) == names

    # As in another process that has built another ReLU first.
    keras.backend.clear_session()
    keras.layers.ReLU()(keras.Input((4,)))
    again = _unnamed()
    again.set_weights(own.get_weights())
    shifted = [layer.name for layer in again.layers if isinstance(layer, keras.layers.ReLU)]
    names = {"penultimate": shifted[2], "intermediate": shifted[1]}
    assert prototypes.check_teacher(again) == names
    x, y = data[0][:4], data[1][:4]
    np.testing.assert_array_equal(
        own_subclasses(prototypes, again, x, y), own_subclasses(prototypes, own, x, y)
    )

    changed = _unnamed(head_dropout=True)
    changed.set_weights(own.get_weights())
    with pytest.raises(ValueError, match=r"another teacher, or .* its layers changed: .*'unnamed'"):
        prototypes.check_teacher(changed)


def test_layers_are_checked_even_without_a_recorded_teacher(teacher):
    prototypes = _prototypes()
    prototypes.check_teacher(teacher())
    with pytest.raises(ValueError, match=r"penultimate.*4 x 4 with 8 .*Received.* 6 x 6 with 8"):
        prototypes.check_teacher(teacher(size=12))
    with pytest.raises(ValueError, match=r"4 x 4 with 8 .*Received.* 4 x 4 with 9"):
        prototypes.check_teacher(teacher(width=7))
    with pytest.raises(ValueError, match=r"of 5 classes.*Received.* of 4"):
        prototypes.check_teacher(teacher(num_classes=4))
    elsewhere = replace(prototypes.penultimate, layer="penultimat")
    with pytest.raises(ValueError, match=r"`prototypes.penultimate.layer` must .*: penultimate"):
        Prototypes(elsewhere).check_teacher(teacher())
    pooled = replace(prototypes.penultimate, pool_size=2, grid=(2, 2))
    Prototypes(pooled).check_teacher(teacher())


def test_a_softmax_at_the_end_of_the_teacher_changes_nothing(teacher):
    own = teacher()
    prototypes = _prototypes({"teacher": {"name": "small", "fingerprint": fingerprint(own)}})
    probabilities = keras.layers.Softmax()(own.output)
    prototypes.check_teacher(keras.Model(own.inputs, probabilities))


def test_values_that_are_not_finite_are_refused(tmp_path):
    bad = _prototypes()
    bad.intermediate.centers[1, 2] = np.nan
    bad.save(tmp_path / "prototypes.npz")
    with pytest.raises(ValueError, match=r"'intermediate/centers' has NaN or infinite values"):
        Prototypes.load(tmp_path / "prototypes.npz")


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest, _: manifest.pop("levels"),
        lambda manifest, _: manifest.pop("arrays"),
        lambda manifest, _: manifest.update(arrays=3),
        lambda manifest, _: manifest["levels"].update(penultimate=3),
    ],
)
def test_a_manifest_without_a_key_or_with_another_kind_of_value_is_refused(tmp_path, change):
    path = tmp_path / "prototypes.npz"
    _prototypes().save(path)
    _rewrite(path, change)
    with pytest.raises(ValueError, match="its manifest is incomplete"):
        Prototypes.load(path)


def test_a_file_that_declares_more_than_it_has_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "prototypes.npz"
    np.savez_compressed(path, manifest=np.zeros(50_000_000, "uint8"))
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"truncated, damaged or of another kind .*declares 50,0"):
        Prototypes.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subclasses": 3}, r"`centers` must be .*here \(15, 3\).*Received: .*\(10, 3\)"),
        ({"subclass_scores": np.ones((10, 9))}, r"`subclass_scores` must be .*\[K, K\].*\(10, 9\)"),
        ({"lda_mean": np.ones(5)}, r"`lda_scalings` must be .*\[C, d\], here \(5, 3\).*\(6, 3\)"),
        ({"centers": np.ones((10, 2))}, r"`lda_scalings` must be .*here \(6, 2\).*\(6, 3\)"),
        ({"centers": np.float32(1)}, "`lda_scalings` must be "),
        ({"lda_mean": np.ones(()), "lda_scalings": np.ones(3)}, r"`lda_scalings` must be .*\[C, d"),
    ],
)
def test_arrays_that_do_not_agree_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(_prototypes().intermediate, **changes)


def test_they_are_shown_in_a_line(tmp_path):
    assert repr(_prototypes()) == (
        "Prototypes(penultimate=PenultimatePrototypes(7 templates of 'penultimate', 4x4x8), "
        "intermediate=IntermediatePrototypes(10 templates of 'intermediate', 4x4x6))"
    )
    assert _prototypes().levels == ("penultimate", "intermediate")
    assert _prototypes(intermediate=False).levels == ("penultimate",)
