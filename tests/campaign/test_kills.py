import os
import subprocess
import sys
from pathlib import Path

import pytest


def _driver(*arguments):
    return subprocess.run(
        [sys.executable, Path(__file__).with_name("kills.py"), *map(str, arguments)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        timeout=1200,
    )


@pytest.mark.slow
def test_killed_commands_end_as_undisturbed_ones():
    done = _driver("--kills", 4, "--commands", "data", "prototypes", "export")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.count("| none |") == 3


@pytest.mark.slow
def test_killed_recipes_end_as_undisturbed_ones():
    recipes = ("recipes.digits", "recipes.compare", "recipes.folder", "recipes.imagenet")
    done = _driver("--kills", 3, "--commands", *recipes)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.count("| none |") == 4
