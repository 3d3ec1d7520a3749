"""The PyTorch peer of the benchmark in the state of a golden step."""

import json
from types import SimpleNamespace

import numpy as np
import torch
from golden_weights import rule_weights
from peer import networks
from peer.letkd import (
    IntermediateTargets,
    KDLayer,
    LetKD,
    PenultimateTargets,
    train_step,
)

_LOSSES = {"loss_cls": "task", "loss_quest": "penultimate", "loss_sub": "intermediate"}


def read(path):
    with np.load(path) as file:
        fields = {name: file[name] for name in file.files}
    fields = {k: json.loads(str(v)) if v.dtype.kind == "U" else v for k, v in fields.items()}
    return SimpleNamespace(**fields)


def peer(golden, teacher_name, student_name, dtype=torch.float32):
    """`LetKD` of the peer with the weights of a golden step."""
    modules = {name: rule_weights(keys, seed) for name, (seed, keys) in golden.modules.items()}
    classes = len(golden.classifier_bias_after)
    teacher, student = (networks.build(name, classes) for name in (teacher_name, student_name))
    load(teacher, modules["teacher_net"])
    load(student, modules["student_net"])
    levels = ["intermediate", "penultimate"] if hasattr(golden, "lda_seed") else ["penultimate"]
    layers = {}
    for number, level in enumerate(levels):
        suffix = f"_{number}" if len(levels) > 1 else ""
        templates = modules[f"BoW_predictor{suffix}"]
        values = modules[f"valueLayer{suffix}"]
        count, channels = templates["layers.weight"].shape[:2]
        layers[level] = KDLayer(channels, count, float(golden.value_ratio[number]))
        weights = {f"bn.{n}": values[f"bn.{n}"] for n in ("weight", "bias")}
        weights |= {f"bn.running_{n}": values[f"bn.running_{n}"] for n in ("mean", "var")}
        weights["templates.weight"] = templates["layers.weight"]
        weights["values.weight"] = values["conv_value.layers.weight"]
        weights |= {"templates.scale": np.float32([3]), "values.scale": np.float32([1])}
        load(layers[level], weights)
    images = nchw(golden.x[:1])
    grids = [networks.tap_shapes(net, images)["penultimate"][2] for net in (teacher, student)]
    model = LetKD(student, teacher, layers, _targets(golden, levels), pool=grids[0] // grids[1])
    return model.to(dtype).train()


def load(module, weights):
    state = {name: torch.from_numpy(np.asarray(value)) for name, value in weights.items()}
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)


def nchw(x):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def _targets(golden, levels):
    rule = golden.centers_rule
    normal = np.random.default_rng(rule["seed"]).standard_normal(rule["shape"])
    centers = (rule["mean"] + rule["std"] * normal).astype("float32")
    targets = {"penultimate": PenultimateTargets(torch.from_numpy(centers))}
    if "intermediate" in levels:
        r = np.random.default_rng(golden.lda_seed)
        channels = int(golden.hint_channels)
        scalings = r.standard_normal((channels, 60))
        centers = r.standard_normal((800, 60)).astype("float32")
        centers = centers * float(golden.hint_std) * np.sqrt(channels)
        scores = r.dirichlet(np.full(800, 0.05), 800)
        # In double until the bias is made, a difference of large numbers.
        arrays = (golden.lda_mean, scalings, centers, scores)
        arrays = [torch.from_numpy(np.asarray(a, "float64")) for a in arrays]
        targets["intermediate"] = IntermediateTargets(*arrays)
    return targets


def two_steps(model, golden):
    """What the golden file has of two steps, under its own names."""
    dtype = next(model.parameters()).dtype
    x, labels = nchw(golden.x).to(dtype), torch.from_numpy(golden.labels.astype("int64"))
    optimizer = model.optimizer()
    parameters = by_module(model)
    losses, norms = [], []
    for _ in range(2):
        values = train_step(model, optimizer, x, labels)
        named = {g: float(values[ours]) for g, ours in _LOSSES.items() if ours in values}
        losses.append({**named, "loss_total": float(sum(values.values()))})
        norms.append({name: _norm([p.grad for p in own]) for name, own in parameters.items()})
    layers = model.layers.values()
    kernel, bias = parameters["classifier"]
    return SimpleNamespace(
        losses=losses,
        grad_norms=norms,
        param_norms_after_2_steps={name: _norm(own) for name, own in parameters.items()},
        classifier_kernel_after=kernel.detach().numpy().T,
        classifier_bias_after=bias.detach().numpy(),
        first_conv_after=next(model.student.parameters()).detach().permute(2, 3, 1, 0).numpy(),
        template_scales=[layer.templates.scale.item() for layer in layers],
        value_scales=[layer.values.scale.item() for layer in layers],
    )


def _norm(tensors):
    return float(torch.sqrt(sum((t.detach().double() ** 2).sum() for t in tensors)))


def by_module(model):
    """Trained parameters as the golden files divide them."""
    student = list(model.student.parameters())
    parameters = {"student": student[:-2], "classifier": student[-2:]}
    for number, layer in enumerate(model.layers.values()):
        parameters[f"template_{number}"] = list(layer.templates.parameters())
        parameters[f"value_{number}"] = [*layer.bn.parameters(), *layer.values.parameters()]
    return parameters
