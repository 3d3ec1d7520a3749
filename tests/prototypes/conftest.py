import pytest
from small_problem import small_teacher


@pytest.fixture
def teacher():
    """A function that builds a teacher small enough for a test."""
    return small_teacher
