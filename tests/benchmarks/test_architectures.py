import architectures

_PASSED = {
    "library": "keras-hub",
    "name": "ViT-small",
    "parameters": 42666,
    "penultimate": "vit_encoder 17x32",
    "intermediate": None,
    "levels": ["penultimate"],
    "bytes": 341048,
    "difference": 1.0e-07,
}
_FAILED = {"library": "keras-hub", "name": "X", "failed": "export", "error": "ValueError: a | b"}


def test_a_page_is_read_as_it_was_written():
    both = {**_PASSED, "name": "Y", "intermediate": "add 2x2x8", "levels": ["penultimate", "i"]}
    page = architectures.table([_PASSED, both, _FAILED], "a command")
    rows = architectures.read_table(page)
    levels = ["penultimate", "intermediate"]
    assert rows == {
        ("keras-hub", "ViT-small"): _PASSED,
        ("keras-hub", "Y"): {**both, "levels": levels},
    }
    assert "| X | keras-hub | export | ValueError: a / b |" in page.splitlines()
