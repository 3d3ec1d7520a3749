import pytest

from letkd_keras.recipes import cifar100, compare, digits, folder
from letkd_keras.recipes.experiments import options


@pytest.mark.parametrize(
    "text",
    [
        *("--templates 0", "--subclasses 0", "--components 0", "--iterations 0", "--epochs 0"),
        *("--learning-rate 0", "--learning-rate -1", "--learning-rate nan", "--learning-rate inf"),
        *("--teacher-epochs 0", "--image-size 0", "--seed 1e30", "--validation-fraction nan"),
        *("--validation-fraction 1", "--temperature 0", "--penultimate-alpha -1", "--trials 0"),
        *("--penultimate-weight nan", "--batch-size 0", "--memory 1e400", "--feature-cache int8"),
    ],
)
@pytest.mark.parametrize("recipe", [cifar100, compare])
def test_numbers_out_of_range_are_refused_by_the_parser(recipe, text, capsys):
    with pytest.raises(SystemExit) as exit:
        recipe.parse(text.split())
    assert exit.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {text.split()[0]} must be ")


@pytest.mark.parametrize(("text", "number"), [("25%", 0.25), ("0.25", 0.25), ("150 %", 1.5)])
def test_growth_is_a_fraction_or_percent(text, number):
    assert options.growth(text) == number


@pytest.mark.parametrize("text", ["0", "-5%", "x%", "nan", "%"])
def test_other_growths_are_refused(text, capsys):
    with pytest.raises(SystemExit):
        digits.parse([f"--growth={text}"])
    assert capsys.readouterr().err.startswith("error: --growth must be a share greater than 0")


@pytest.mark.parametrize(
    ("recipe", "default"),
    [
        (cifar100, "mean and standard deviation of the data set"),
        (folder, "0..255"),
        (compare, "as in the recipe of the data set"),
    ],
)
def test_the_help_has_the_default_of_pixels(recipe, default, capsys):
    with pytest.raises(SystemExit):
        recipe.parse(["--help"])
    assert f"of ImageNet); default: {default} --" in " ".join(capsys.readouterr().out.split())


def test_the_help_has_the_defaults_where_there_is_no_pair(capsys):
    with pytest.raises(SystemExit):
        folder.parse(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "of the student's first epochs (default: 0.05, or 0.001 with adamw)" in text
    assert "alpha of the penultimate KD layer (default: 1)" in text
    with pytest.raises(SystemExit):
        cifar100.parse(["--help"])
    assert "KD layer (default: as in the paper for the pair)" in capsys.readouterr().out.replace(
        "\n", " "
    ).replace("  ", "")
