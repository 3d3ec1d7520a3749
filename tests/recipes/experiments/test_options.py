import pytest

from letkd_keras.recipes import cifar100, compare, digits, folder
from letkd_keras.recipes.experiments import options


@pytest.mark.parametrize(
    "text",
    [
        *("--epochs 0", "--teacher-epochs 0", "--batch-size 0", "--trials 0", "--learning-rate 0"),
        *("--components 0", "--iterations 0", "--temperature 0"),
        *("--penultimate-alpha -1", "--penultimate-weight nan"),
        *("--optimizer adam", "--schedule linear", "--warm-up-epochs -1", "--label-smoothing 1"),
        *("--ema 1", "--ema 0", "--clip-norm 0", "--mixed-precision float8"),
        *("--class-weights all", "--weight-decay -1"),
    ],
)
def test_values_out_of_range_are_refused(text, capsys):
    with pytest.raises(SystemExit) as exit:
        digits.parse(text.split())
    assert exit.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {text.split()[0]} must be ")


@pytest.mark.parametrize(
    ("text", "number"), [("25%", 0.25), ("0.25", 0.25), ("150 %", 1.5), ("1", 1.0)]
)
def test_growth_is_a_fraction_or_percent(text, number):
    assert options.growth(text) == number


@pytest.mark.parametrize("text", ["0", "-5%", "x%", "nan", "%"])
def test_other_growths_are_refused(text, capsys):
    with pytest.raises(SystemExit):
        digits.parse([f"--growth={text}"])
    assert capsys.readouterr().err.startswith("error: --growth must be a share greater than 0")


@pytest.mark.parametrize("text", ["25", "1.5"])
def test_a_growth_whose_percent_sign_may_be_forgotten_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        digits.parse(["--growth", text])
    sentence = "error: --growth must have a percent sign if it is greater than 1, such as 25%"
    assert capsys.readouterr().err.startswith(sentence)


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
    for role in ("student", "teacher"):
        assert f"of the {role}'s first epochs (default: 0.001 with adamw, 0.05 with sgd)" in text
    assert "alpha of the penultimate KD layer (default: 1)" in text
    with pytest.raises(SystemExit):
        cifar100.parse(["--help"])
    assert "KD layer (default: as in the paper for the pair)" in capsys.readouterr().out.replace(
        "\n", " "
    ).replace("  ", "")
