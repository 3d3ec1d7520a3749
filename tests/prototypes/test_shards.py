import numpy as np
import pytest
from small_problem import SIZES, small_images

from letkd_keras.prototypes import PrototypeFit

OPTIONS = {**SIZES, "batch_size": 7}


def _fit(teacher, folder, **options):
    return PrototypeFit(teacher, small_images(), **OPTIONS, workdir=folder, **options)


def _sharded(teacher, folder, count, **options):
    """Each shard and the merge in an object of its own, as in processes of their own."""
    prototypes, rounds = None, 0
    while prototypes is None:
        passes = {
            _fit(teacher, folder, **options).run_shard(index, count)
            for index in reversed(range(count))
        }
        assert len(passes) == 1
        prototypes = _fit(teacher, folder, **options).merge(count)
        rounds += 1
    return prototypes, rounds


@pytest.mark.parametrize(("memory", "rounds"), [(2**20, 2), (300 * 52, 3)])
def test_merged_shards_are_one_pass(tmp_path, teacher, memory, rounds):
    model = teacher()
    whole = _fit(model, tmp_path / "one", memory=memory).run()
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


def test_shards_leave_nothing_but_stages(tmp_path, teacher):
    _sharded(teacher(), tmp_path, 2)
    assert {path.name for path in tmp_path.iterdir()} == {
        "settings.json",
        "features",
        "penultimate",
        "projected",
        "subclasses",
        "scores",
    }


def test_a_merge_without_all_its_shards_is_refused_by_name(tmp_path, teacher):
    model = teacher()
    assert _fit(model, tmp_path).run_shard(1, 3) == "features"
    with pytest.raises(ValueError, match=r"features-0-of-3, features-2-of-3"):
        _fit(model, tmp_path).merge(3)


def test_a_shard_done_is_not_done_again_and_none_waits_at_the_end(tmp_path, teacher, monkeypatch):
    model = teacher()
    _fit(model, tmp_path).run_shard(0, 2)
    with monkeypatch.context() as patched:
        patched.setattr(
            "letkd_keras.prototypes.teacher_features.TeacherFeatures.__call__",
            lambda *_: pytest.fail("the teacher ran"),
        )
        assert _fit(model, tmp_path).run_shard(0, 2) == "features"
    merged, _ = _sharded(model, tmp_path, 2)
    assert _fit(model, tmp_path).run_shard(0, 2) is None
    again = _fit(model, tmp_path).merge(2)
    np.testing.assert_array_equal(again.penultimate.centers, merged.penultimate.centers)


def test_shards_that_cannot_work_are_refused(tmp_path, teacher):
    model = teacher()
    fit = _fit(model, tmp_path)
    for index, count in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match=f"index={index}, count={count}"):
            fit.run_shard(index, count)
    with pytest.raises(ValueError, match="need a `workdir`"):
        PrototypeFit(model, small_images(), **OPTIONS).run_shard(0, 2)
    with pytest.raises(ValueError, match="cache='float32'"):
        _fit(model, tmp_path / "other", cache="float32").run_shard(0, 2)
