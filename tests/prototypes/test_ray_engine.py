"""The teacher's passes on actors of Ray, against those of this process.

Actors are real processes on this machine. They are slow to start: each one imports TensorFlow.
"""

import contextlib
import functools
import pickle
import sys

import numpy as np
import pytest
from batches_that_kill import BatchesThatKill
from small_problem import SIZES, small_images

from letkd_keras.commands.ray_cluster import import_ray
from letkd_keras.data.normalization import normalize
from letkd_keras.prototypes import fit, fit_prototypes, ray_engine

try:
    ray = import_ray()
except ImportError:
    pytest.skip("Ray is not installed", allow_module_level=True)

# Room for a sample only, so that the scores need a pass of their own.
OPTIONS = {**SIZES, "batch_size": 7, "memory": 300 * 52}
RAY = {"engine": "ray", "workers": 2}
halved = functools.partial(normalize, mean=(0.0,) * 3, std=(0.5,) * 3)


@pytest.fixture(scope="module")
def running():
    """One Ray for all tests that need it."""
    with ray_engine.running_ray(2) as resources:
        assert ray.util.get_node_ip_address() == "127.0.0.1"
        yield resources


@pytest.fixture
def in_this_process(monkeypatch):
    """Actors that are called here, last piece first, instead of processes of Ray."""
    jobs = []

    def parts(self, job, count):
        monkeypatch.setattr(ray, "get", lambda reference: reference)
        actor = ray_engine._TeacherActor([job])
        jobs.append(job)
        pieces = [(start, min(start + 2, count)) for start in range(0, count, 2)]
        done = {
            piece: list(actor({"start": piece[:1], "stop": piece[1:]})) for piece in pieces[::-1]
        }
        for row in (row for piece in pieces for row in done[piece]):
            result = pickle.loads(row["part"][0])
            if isinstance(result, Exception):
                raise result
            yield result

    monkeypatch.setattr(ray_engine.RayEngine, "_parts", parts)
    monkeypatch.setattr(ray_engine, "running_ray", lambda _: contextlib.nullcontext((1, 0)))
    return jobs


def bytes_of(prototypes, tmp_path):
    prototypes.save(tmp_path / "p.npz")
    return (tmp_path / "p.npz").read_bytes()


def interrupted(monkeypatch, function, **options):
    """A fit that ends when it calls a function of the module `fit`."""
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(fit, function, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        fit_prototypes(data=small_images(), **OPTIONS, **options)


@pytest.mark.parametrize("cache", [None, "float32"])
def test_summaries_from_actors_give_the_same_bits(tmp_path, teacher, in_this_process, cache):
    model = teacher()
    options = {**OPTIONS, "preprocess": halved, "feature_cache": cache}
    one, other = (
        fit_prototypes(model, small_images(), **options, workdir=tmp_path / name, **engine)
        for name, engine in (("local", {}), ("ray", RAY))
    )
    assert bytes_of(one, tmp_path) == bytes_of(other, tmp_path)
    assert len(in_this_process) == (2 if cache else 3)


def test_what_summarizes_batches_is_small(teacher, in_this_process):
    fit_prototypes(teacher(), small_images(), **OPTIONS, **RAY)
    assert len(in_this_process) == 3
    for job in in_this_process:
        assert len(pickle.dumps(job["summarize"])) < 4000


def test_errors_of_an_actor_are_those_of_this_process(teacher, in_this_process):
    x, y = small_images()
    x[37, 2, 1, 0] = np.nan
    with pytest.raises(ValueError, match=r"must have finite images.*in image 37$"):
        fit_prototypes(teacher(), (x, y), **OPTIONS, **RAY)


@pytest.mark.parametrize(
    ("batches", "workers", "sizes"),
    [
        (20, 1, [5, 5, 5, 5]),
        (21, 2, [3] * 7),
        (10, 8, [1] * 10),
        (70, 2, [8] * 8 + [6]),
        (1, 3, [1]),
    ],
)
def test_each_actor_has_several_pieces_of_limited_size(batches, workers, sizes):
    pieces = ray_engine._pieces(batches, workers)
    assert [piece["stop"] - piece["start"] for piece in pieces] == sizes
    assert pieces[0]["start"] == 0 and pieces[-1]["stop"] == batches
    assert [piece["start"] for piece in pieces[1:]] == [piece["stop"] for piece in pieces[:-1]]


def test_what_cannot_work_is_refused(teacher):
    import tensorflow as tf

    fit_small = functools.partial(fit_prototypes, teacher(), **OPTIONS)
    with pytest.raises(ValueError, match=r"`engine` must be .* engine='spark'"):
        fit_small(small_images(), engine="spark")
    with pytest.raises(ValueError, match=r'`workers` needs engine="ray"\. Received: workers=2'):
        fit_small(small_images(), workers=2)
    for workers in (None, 0, 1.5):
        with pytest.raises(ValueError, match=f"`workers` must be .*workers={workers}"):
            fit_small(small_images(), engine="ray", workers=workers)
    with pytest.raises(ValueError, match="a pair of arrays with engine="):
        fit_small(tf.data.Dataset.from_tensor_slices(small_images()).batch(7), **RAY)


def test_without_ray_the_extra_is_named(teacher, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'pip install "letkd-keras\[ray\]"'):
        fit_prototypes(teacher(), small_images(), **OPTIONS, **RAY)


@pytest.mark.slow
def test_actors_give_the_same_bytes_and_either_engine_continues_the_other(
    tmp_path, teacher, monkeypatch, running
):
    model = teacher()
    whole = fit_prototypes(model, small_images(), **OPTIONS, workdir=tmp_path / "one")
    workdir = tmp_path / "other"
    interrupted(monkeypatch, "_penultimate", teacher=model, workdir=workdir, **RAY)
    assert [path.name for path in (workdir / "steps").iterdir()] == ["features"]
    interrupted(monkeypatch, "_subclasses", teacher=model, workdir=workdir)
    other = fit_prototypes(model, small_images(), **OPTIONS, workdir=workdir, **RAY)
    assert bytes_of(whole, tmp_path) == bytes_of(other, tmp_path)


@pytest.mark.slow
def test_a_killed_actor_is_replaced_and_its_work_done_again(tmp_path, teacher, running):
    model = teacher()
    options = {**SIZES, "levels": ("penultimate",)}
    whole = fit_prototypes(model, BatchesThatKill(tmp_path / "unused"), **options)
    killed = fit_prototypes(model, BatchesThatKill(tmp_path / "killed"), **options, **RAY)
    assert not (tmp_path / "unused").exists() and (tmp_path / "killed").exists()
    assert bytes_of(whole, tmp_path) == bytes_of(killed, tmp_path)
