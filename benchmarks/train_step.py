"""What a distillation step takes, beside its floor and a peer, as JSON lines. See `--help`.

    python benchmarks/train_step.py --pairs resnet56-resnet20 --methods letkd2 --steps 10

One line a pair and method: `pair`, `method`, `step_ms` (a step of `LetKD`, compiled), `student_ms`
(a training step of the student alone), `teacher_ms` (the teacher's forward pass), `peer_ms` (the
step in PyTorch as one normally writes it, `benchmarks/peer`; null where torch is missing),
`compiled_peer_ms` (the same with its losses and their gradients under `torch.compile`; null also
where there is no C++ compiler), `floor_ratio` (step / (student + teacher)), `peer_ratio` (step /
peer), `compiled_peer_ratio`, and `peak_mib` with `peer_peak_mib` and `compiled_peer_peak_mib`. Each
of these three has a second value (`steady_peak_mib` and so on) of steps after the first ones, in
which functions are traced and compiled; null where Linux does not reset the peak. With
`--block-size` the step computes in blocks of so many images (`LetKD(block_size=)`). A last line has
`pipeline_images_per_s` of the input pipeline alone.

Times are medians of interleaved calls in one process, so that what else the machine does falls on
all alike: compare the ratios. Where the machine has much else to do, `--clock cpu` takes the
processor time of all threads instead. Peak memory is that of a process which only makes steps,
above what it held after its imports. Networks have fresh weights, prototypes the paper's sizes
(4096 and 800) and random values, images are noise: none of which matters to time.
"""

import argparse
import importlib.util
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

PAIRS = ("resnet56-resnet20", "wrn40_2-snv1", "resnet50-mnv2")
METHODS = {"letkd1": ("penultimate",), "letkd2": ("penultimate", "intermediate")}
CLASSES, CLUSTERS, SUBCLASSES, COMPONENTS = 100, 4096, 8, 60
WARM_UP = 3
_CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main(arguments=None):
    options = parse(arguments)
    if options.one is not None:
        print(json.dumps(_ONE[options.one](options)))
        return
    # Everything runs in processes of its own: one that starts others hands them its peak memory.
    for pair in options.pairs.split(","):
        for method in options.methods.split(","):
            line = {"pair": pair, "method": method, "batch_size": options.batch_size}
            line |= {"threads": options.threads, "clock": options.clock}
            line.update(_in_a_process("times", pair, method, options))
            line.update(_in_a_process("memory", pair, method, options))
            for peer in _PEERS:
                line[f"{peer}_peak_mib"] = line[f"{peer}_steady_peak_mib"] = None
                if line[f"{peer}_ms"] is not None:
                    line.update(_in_a_process(f"{peer}_memory", pair, method, options))
            print(json.dumps(line), flush=True)
    print(json.dumps(_in_a_process("pipeline", None, None, options)), flush=True)


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", default=",".join(PAIRS), help="teacher-student, comma separated")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--steps", type=int, default=20, help="timed calls of each")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--block-size", type=int, help="images of a block (default: the batch)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=_CLOCKS, default="wall", help="time taken (%(default)s)")
    parser.add_argument("--one", choices=_ONE, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for name in ("steps", "batch_size", "threads", "block_size"):
        if (getattr(options, name) or 1) < 1:
            parser.error(f"`{name}` must be at least 1. Received: {getattr(options, name)}")
    for pair in options.pairs.split(","):
        if pair not in PAIRS:
            parser.error(f"`pairs` must be of {', '.join(PAIRS)}. Received: {pair!r}")
    for method in options.methods.split(","):
        if method not in METHODS:
            parser.error(f"`methods` must be of {', '.join(METHODS)}. Received: {method!r}")
    return options


def _in_a_process(what, pair, method, options):
    command = [sys.executable, __file__, "--one", what]
    if pair is not None:
        command += ["--pairs", pair, "--methods", method]
    for name in ("steps", "batch_size", "threads", "clock"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    if options.block_size is not None:
        command += ["--block-size", str(options.block_size)]
    threads = str(options.threads)
    environment = {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **os.environ,
        "TF_NUM_INTRAOP_THREADS": threads,
        "TF_NUM_INTEROP_THREADS": threads,
        "OMP_NUM_THREADS": threads,
        # Threads that wait do not take the processor from those that work.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    process = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if process.returncode:
        sys.exit(f"{what} of {pair} {method} failed")
    return json.loads(process.stdout.splitlines()[-1])


def _times(options):
    problem = _problem(options)
    calls = {**_keras_calls(problem, options, whole=True), **{f"{x}_ms": None for x in _PEERS}}
    if importlib.util.find_spec("torch") is not None:
        calls["peer_ms"] = _peer(problem, options)
        if shutil.which(os.environ.get("CXX", "g++")):
            calls["compiled_peer_ms"] = _peer(problem, options, compiled=True)
    found = {name: [] for name in calls}
    clock = _CLOCKS[options.clock]
    for number in range(WARM_UP + options.steps):
        for name, call in calls.items():
            if call is None:
                continue
            start = clock()
            call()
            if number >= WARM_UP:
                found[name].append(1e3 * (clock() - start))
    line = {name: round(statistics.median(t), 2) if t else None for name, t in found.items()}
    line["floor_ratio"] = round(line["step_ms"] / (line["student_ms"] + line["teacher_ms"]), 3)
    for name in _PEERS:
        peer = line[f"{name}_ms"]
        line[f"{name}_ratio"] = None if peer is None else round(line["step_ms"] / peer, 3)
    return line


def _memory(options):
    import keras  # noqa: F401

    import letkd_keras  # noqa: F401

    before = _peak_mib()
    step = _keras_calls(_problem(options), options, whole=False)["step_ms"]
    return _peaks(step, before, "")


def _peer_memory(options, compiled=False):
    import peer.letkd
    import peer.networks  # noqa: F401

    if compiled:
        import torch._inductor.compile_fx  # noqa: F401
    before = _peak_mib()
    step = _peer(_problem(options), options, compiled)
    return _peaks(step, before, "compiled_peer_" if compiled else "peer_")


def _compiled_peer_memory(options):
    return _peer_memory(options, compiled=True)


def _pipeline(options):
    import numpy as np

    from letkd_keras.data.array_batches import training_batches

    images = np.random.default_rng(0).integers(0, 256, (50_000, 32, 32, 3), "uint8")
    labels = np.arange(len(images)) % CLASSES
    batches = iter(
        training_batches(images, labels, options.batch_size, mean=[0.5] * 3, std=[0.25] * 3)
    )
    next(batches)
    start, seen = time.perf_counter(), 0
    while seen < 50 * options.batch_size:
        seen += len(next(batches)[1])
    return {"pipeline_images_per_s": round(seen / (time.perf_counter() - start))}


_PEERS = ("peer", "compiled_peer")
_ONE = {
    "times": _times,
    "memory": _memory,
    "peer_memory": _peer_memory,
    "compiled_peer_memory": _compiled_peer_memory,
    "pipeline": _pipeline,
}


def _problem(options):
    """Names, levels, images and labels: the same for both sides."""
    import numpy as np

    r = np.random.default_rng(0)
    teacher, student = options.pairs.split("-")
    return {
        "names": {"teacher": teacher, "student": student},
        "levels": METHODS[options.methods],
        "x": r.standard_normal((options.batch_size, 32, 32, 3)).astype("float32"),
        "y": r.integers(0, CLASSES, options.batch_size),
    }


def _intermediate(channels):
    """LDA, sub-class centers and scores of the paper's sizes, random."""
    import numpy as np

    r = np.random.default_rng(1)
    templates = CLASSES * SUBCLASSES
    arrays = (
        np.zeros(channels),
        r.standard_normal((channels, COMPONENTS)),
        r.standard_normal((templates, COMPONENTS)),
        r.dirichlet(np.full(templates, 0.05), templates),
    )
    return [array.astype("float32") for array in arrays]


def _centers(channels):
    import numpy as np

    r = np.random.default_rng(2)
    return r.standard_normal((CLUSTERS, channels)).astype("float32")


def _keras_calls(problem, options, whole):
    """Calls by name: a step and, if `whole`, what its floor is made of."""
    import keras

    names = problem["names"]
    models = keras_models(
        names["teacher"], names["student"], problem["levels"], block_size=options.block_size
    )
    x, y = problem["x"], problem["y"]
    if keras.config.image_data_format() == "channels_first":
        x = x.transpose(0, 3, 1, 2)
    calls = {"step_ms": lambda: models["distiller"].train_on_batch(x, y)}
    if whole:
        calls["student_ms"] = lambda: models["student"].train_on_batch(x, y)
        calls["teacher_ms"] = lambda: models["teacher"].predict_on_batch(x)
    return calls


def keras_models(teacher, student, levels, block_size=None):
    """A compiled `LetKD` with random prototypes, as `distiller`, its `student` and its `teacher`.

    The student is compiled, too. Its variables are those of the distiller.
    """
    import keras

    from letkd_keras import LetKD, models
    from letkd_keras.optimizers import TorchSGD
    from letkd_keras.prototypes import IntermediatePrototypes, PenultimatePrototypes, Prototypes

    def compiled(model):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        optimizer = TorchSGD(0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
        model.compile(optimizer, loss, metrics=["accuracy"])
        return model

    is_last = keras.config.image_data_format() == "channels_last"
    shape = (32, 32, 3) if is_last else (3, 32, 32)
    teacher, student = (models.build(name, CLASSES, shape) for name in (teacher, student))

    def at(level):
        maps = [model.get_layer(level).output.shape for model in (teacher, student)]
        rows, channels = (1, -1) if is_last else (2, 1)
        grid, pool = (maps[1][rows],) * 2, maps[0][rows] // maps[1][rows]
        return maps[0][channels], {"layer": level, "grid": grid, "pool_size": pool}

    channels, where = at("penultimate")
    parts = [PenultimatePrototypes(centers=_centers(channels), **where)]
    if "intermediate" in levels:
        channels, where = at("intermediate")
        names = ("lda_mean", "lda_scalings", "centers", "subclass_scores")
        arrays = dict(zip(names, _intermediate(channels), strict=True))
        numbers = {"num_classes": CLASSES, "subclasses": SUBCLASSES}
        parts.append(IntermediatePrototypes(**arrays, **numbers, **where))
    prototypes = Prototypes(*parts)
    distiller = compiled(LetKD(teacher, student, prototypes, block_size=block_size))
    return {"distiller": distiller, "student": compiled(student), "teacher": teacher}


def _peer(problem, options, compiled=False):
    """A call that makes one step of the peer, under `torch.compile` if `compiled`."""
    import torch
    from peer import letkd, networks

    torch.set_num_threads(options.threads)
    images = torch.from_numpy(problem["x"].transpose(0, 3, 1, 2).copy())
    labels = torch.from_numpy(problem["y"])
    teacher, student = (
        networks.build(problem["names"][role], CLASSES) for role in ("teacher", "student")
    )
    taps = [networks.tap_shapes(network, images[:1]) for network in (teacher, student)]
    layers, targets = {}, {}
    for level in problem["levels"]:
        channels = taps[0][level][1]
        if level == "penultimate":
            targets[level] = letkd.PenultimateTargets(torch.from_numpy(_centers(channels)))
            templates = CLUSTERS
        else:
            arrays = [torch.from_numpy(array) for array in _intermediate(channels)]
            targets[level] = letkd.IntermediateTargets(*arrays, subclasses=SUBCLASSES)
            templates = CLASSES * SUBCLASSES
        layers[level] = letkd.KDLayer(taps[1][level][1], templates, alpha=1.0)
    pool = taps[0]["penultimate"][2] // taps[1]["penultimate"][2]
    model = letkd.LetKD(student, teacher, layers, targets, pool).train()
    optimizer = model.optimizer()
    if compiled:
        model.losses = torch.compile(model.losses)
    return lambda: letkd.train_step(model, optimizer, images, labels)


def _peaks(step, before, prefix):
    """Peak memory of the first steps and of later ones, above what was held before."""
    line = {}
    for name in ("peak_mib", "steady_peak_mib"):
        for _ in range(WARM_UP):
            step()
        line[prefix + name] = round(_peak_mib() - before)
        if not _forget_peak():
            return {**line, f"{prefix}steady_peak_mib": None}
    return line


def _forget_peak():
    """Have the peak start again at what the process holds now, where Linux allows that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak_mib():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main()
