import numpy as np
import pytest
from small_problem import SIZES, small_images

from letkd_keras.prototypes import fit_prototypes
from letkd_keras.prototypes.steps import STEPS

OPTIONS = {**SIZES, "batch_size": 7}


def _fit(teacher, folder, **options):
    return fit_prototypes(teacher, small_images(), **OPTIONS, workdir=folder, **options)


def _sharded(teacher, folder, count, **options):
    """Each shard and the merge in a call of its own, as in processes of their own."""
    prototypes, rounds = None, 0
    while prototypes is None:
        for index in reversed(range(count)):
            assert _fit(teacher, folder, shard=(index, count), **options) is None
        prototypes = _fit(teacher, folder, merge=count, **options)
        rounds += 1
    return prototypes, rounds


@pytest.mark.parametrize(("memory", "rounds"), [(2**20, 2), (300 * 52, 3)])
def test_merged_shards_are_one_pass(tmp_path, teacher, memory, rounds):
    model = teacher()
    whole = _fit(model, tmp_path / "one", memory=memory)
    merged, needed = _sharded(model, tmp_path / "shards", 3, memory=memory)
    assert needed == rounds
    # The k-means sees the very same points; the LDA differs by the rounding of float64 sums.
    np.testing.assert_array_equal(merged.penultimate.centers, whole.penultimate.centers)
    one, other = whole.intermediate, merged.intermediate
    np.testing.assert_allclose(other.lda_mean, one.lda_mean, rtol=1e-6)
    signs = np.sign(np.sum(one.lda_scalings * other.lda_scalings, axis=0))
    np.testing.assert_allclose(other.lda_scalings * signs, one.lda_scalings, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(other.centers * signs, one.centers, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(other.subclass_scores, one.subclass_scores, atol=0.02)
    assert merged.manifest["data"]["images"] == 60
    for level, name in (("penultimate", "points"), ("intermediate", "points")):
        assert merged.manifest["health"][level][name] == whole.manifest["health"][level][name]


def test_shards_leave_nothing_but_steps(tmp_path, teacher):
    _sharded(teacher(), tmp_path, 2)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "config.json", "steps"}
    assert {path.name for path in (tmp_path / "steps").iterdir()} == set(STEPS)


def test_a_merge_without_all_its_shards_is_refused_by_name(tmp_path, teacher):
    model = teacher()
    _fit(model, tmp_path, shard=(1, 3))
    with pytest.raises(ValueError, match=r"features-0-of-3, features-2-of-3"):
        _fit(model, tmp_path, merge=3)


def test_a_shard_done_is_not_done_again_and_none_waits_at_the_end(
    tmp_path, teacher, monkeypatch, caplog
):
    caplog.set_level("INFO", logger="letkd_keras")
    model = teacher()
    _fit(model, tmp_path, shard=(0, 2))
    assert "features: part 1 of 2 is done" in caplog.text
    with monkeypatch.context() as patched:
        patched.setattr(
            "letkd_keras.prototypes.teacher_features.TeacherFeatures.__call__",
            lambda *_: pytest.fail("the teacher ran"),
        )
        _fit(model, tmp_path, shard=(0, 2))
    merged, _ = _sharded(model, tmp_path, 2)
    caplog.clear()
    assert _fit(model, tmp_path, shard=(0, 2)) is None
    assert "all steps are finished" in caplog.text
    again = _fit(model, tmp_path, merge=2)
    np.testing.assert_array_equal(again.penultimate.centers, merged.penultimate.centers)


def test_shards_that_cannot_work_are_refused(tmp_path, teacher):
    model = teacher()
    for index, count in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match=f"index={index}, count={count}"):
            _fit(model, tmp_path, shard=(index, count))
    with pytest.raises(ValueError, match="need a `workdir`"):
        fit_prototypes(model, small_images(), **OPTIONS, shard=(0, 2))
    with pytest.raises(ValueError, match="feature_cache='float32'"):
        _fit(model, tmp_path / "other", feature_cache="float32", shard=(0, 2))
    with pytest.raises(ValueError, match="exclude each other"):
        _fit(model, tmp_path, shard=(0, 2), merge=2)
    assert not list(tmp_path.iterdir())
