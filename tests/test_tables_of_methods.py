"""The tables of methods and of losses in the documentation, against those of the program."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from letkd_keras.distillers import HintedLetKD, LetKD
from letkd_keras.losses import LOGIT_LOSSES
from letkd_keras.recipes import cifar100, digits, folder, imagenet, tiny_imagenet
from letkd_keras.recipes.experiments.methods import METHODS

DOCS = Path(__file__).parents[1] / "docs"


def _table(page, first_heads):
    """Rows of the table that begins with these heads: cells by head."""
    lines = iter((DOCS / page).read_text().splitlines())
    head = next(line for line in lines if line.startswith(first_heads))
    heads = [cell.strip() for cell in head.strip("|").split("|")]
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            return rows
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows.append(dict(zip(heads, cells, strict=True)))


FEATURES = _table("methods.md", "| name | in tables | class |")
LOSSES = _table("losses.md", "| name | in tables | value of a sample |")


def _default(distiller, argument):
    return inspect.signature(distiller).parameters[argument].default


def _weights(method):
    """Weights of the losses of a method with features."""
    if method.distiller is None:
        return []
    weights = [_default(LetKD, f"{level}_weight") for level in method.levels]
    if method.distiller is LetKD:
        return weights
    hint = "hint_weight" if method.distiller is HintedLetKD else "weight"
    return [_default(method.distiller, hint), *weights]


def test_every_method_is_in_a_table():
    named = [row["name"].strip("`") for row in (*FEATURES, *LOSSES)]
    assert len(named) == len(set(named))
    page = (DOCS / "methods.md").read_text()
    ablation = {name for name in METHODS if re.fullmatch(r"letkd(_[ip][01]|_i[01]p[01])", name)}
    assert set(named) == set(METHODS) - ablation
    assert all(f"`{name}`" in page for name in ablation)


@pytest.mark.parametrize("row", FEATURES, ids=lambda row: row["name"].strip("`"))
def test_methods_with_features(row):
    method = METHODS[row["name"].strip("`")]
    assert row["in tables"] == method.title
    distiller = "-" if method.distiller is None else f"`{method.distiller.__name__}`"
    assert row["class"] == distiller
    assert [float(x) for x in re.findall(r"[\d.]+", row["weight of its loss"])] == _weights(method)
    assert float(row["weight of the cross-entropy"]) == method.task_weight


@pytest.mark.parametrize("row", LOSSES, ids=lambda row: row["name"].strip("`"))
def test_losses_on_logits(row):
    loss = LOGIT_LOSSES[row["name"].strip("`")]
    assert row["in tables"] == loss.title
    assert float(row["weight"]) == loss.weight
    assert float(row["weight of the cross-entropy"]) == loss.task_weight
    warm_up = f"{loss.warm_up_epochs} of 240 epochs" if loss.warm_up_epochs else "-"
    assert row["warm-up"] == warm_up
    options = dict(re.findall(r"`(\w+)=([\w.]+)`", row["options and defaults"]))
    settings = loss.settings()
    if options.get("confidence_temperature") == "None":  # the same as the temperature
        options["confidence_temperature"] = options["temperature"]
    assert {name: ast.literal_eval(value) for name, value in options.items()} == settings


def test_losses_of_imagenet():
    page, losses = (DOCS / "losses.md").read_text(), imagenet.SETTINGS.logit_losses
    kd, dist, dkd = (losses[name] for name in ("kd", "dist", "dkd"))
    assert set(losses) == {"kd", "dist", "dkd"}
    temperatures = {name: row["options"]["temperature"] for name, row in losses.items()}
    weights = f"weight {kd['weight']:g}, weight {kd['task_weight']:g} of the cross-entropy"
    assert f"- `kd`: temperature {temperatures['kd']:g}, {weights}.\n" in page
    assert f"- `dist`: temperature {temperatures['dist']:g}.\n" in page
    assert f"- `dkd`: temperature {temperatures['dkd']:g}, a warm-up of one epoch.\n" in page
    assert "`recipes.imagenet` one epoch for DKD" in (DOCS / "methods.md").read_text()
    assert "one epoch in `recipes.imagenet`" in (DOCS / "from_repdistiller.md").read_text()
    assert (dkd["warm_up_epochs"], set(dist)) == (1, {"options"})
    first, *others = imagenet.SETTINGS.pairs
    betas = f"{first.dkd_beta:g} for {first.name} and {dkd['options']['beta']:g} for the other"
    assert f"- `dkd` and `dkd-ls`: `beta` is {betas} pairs.\n" in page
    assert {pair.dkd_beta for pair in others} == {None}
    recipes = (cifar100, digits, folder, tiny_imagenet)
    assert not any(recipe.SETTINGS.logit_losses for recipe in recipes)
