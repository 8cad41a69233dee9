"""Values have types everywhere: whatever somebody writes is taken as what it is, or refused in lines that say where."""

from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import example, given, settings, strategies as st

from s2r2.errors import S2R2Error
from s2r2.settings.values import Mistakes, fitted
from s2r2.settings.yaml_documents import read_scalar, read_yaml, read_yaml_text, write_yaml
from s2r2.study.spec import Study, parse_study
from s2r2.training import TrainConfig
from s2r2.views import Recipe

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=8,
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)
NAMES = sorted(get_type_hints(TrainConfig).keys() - {"given"})


@given(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), ANYTHING, max_size=4))
@example({"options": {"of one's own": {0: None}}})
@example({"options": {"of one's own": [b"bytes"]}})
@settings(deadline=None, max_examples=300)
def test_any_settings_are_a_config_or_refused(values: dict[str, Any]) -> None:
    try:
        config = TrainConfig.from_dict(values)
    except S2R2Error as error:
        if not all(line.isprintable() for line in str(error).split("\n")):
            raise AssertionError("control characters on a terminal") from error
        return
    again, mistakes = read_yaml_text(write_yaml(config.to_dict()), "config.yaml")
    assert TrainConfig.from_dict(again, mistakes) == config


@given(st.dictionaries(st.sampled_from(sorted(get_type_hints(Recipe))) | st.text(max_size=5), ANYTHING, max_size=4))
@settings(deadline=None, max_examples=200)
def test_any_settings_are_a_recipe_or_refused(values: dict[str, Any]) -> None:
    try:
        recipe = Recipe.from_dict(values)
    except S2R2Error:
        return
    assert Recipe.from_dict(recipe.to_dict()) == recipe


@given(ANYTHING | st.dictionaries(st.sampled_from(sorted(set(get_type_hints(Study)) - {"mistakes"})), ANYTHING))
@settings(deadline=None, max_examples=300)
def test_anything_is_a_study_or_refused(values: Any) -> None:
    with pytest.raises(S2R2Error):
        parse_study(values, Path())


@given(st.dictionaries(st.text(), PLAIN, min_size=1, max_size=4))
@settings(deadline=None, max_examples=200)
def test_what_is_written_is_read_back(values: dict[str, Any]) -> None:
    assert read_yaml_text(write_yaml(values), "x")[0] == values


@given(st.text(alphabet=st.sampled_from(list("ab01:-[]{}&*!<>?|'\"#%@`,.~ \n\t\r\0é\u2028")), max_size=40))
@settings(deadline=None, max_examples=500)
def test_any_text_is_settings_or_one_line(text: str) -> None:
    read_scalar(text)
    try:
        values, mistakes = read_yaml_text(text, "x.yaml")
        mistakes.refuse()
    except S2R2Error as error:
        if "x.yaml" not in str(error):
            raise AssertionError("the file is not named") from error
        return
    assert isinstance(values, dict)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: a: is given twice, first in line 1"),
        ("a:\n\t- 1\n", "line 2: a tab"),
        ("a: [1, 2\nb: 3\n", "line 2"),
        ("a: *nobody\n", "line 1: found undefined alias"),
        ("- a\n", "is a list"),
        ("", "is empty"),
        ("just words", "is a single value"),
        ("? [a]\n: b\n", "line 1: a key must be"),
        ("a: !!python/object/apply:os.system echo\n", "line 1: a: 'echo' is not"),
        (LAUGHS, "too many values, or values nested too deeply"),
        ("a: &a [*a]\n", "too many values, or values nested too deeply"),
        ("a: " + "[" * 3000, "nested too deeply"),
        ("a: \0\n", "characters are not allowed"),
    ],
)
def test_files_that_are_no_settings_are_one_line(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(S2R2Error) as error:
        read_yaml(path)[1].refuse()
    assert words in str(error.value)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_files_are_bounded_and_their_bytes_are_text(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    for content, words in ((b"a: " + b"x" * (1 << 20), "larger than"), (b"a: 1\nb: \xff\n", "line 2: not UTF-8")):
        path.write_bytes(content)
        with pytest.raises(S2R2Error, match=words):
            read_yaml(path)
    with pytest.raises(S2R2Error, match="Is a directory"):
        read_yaml(tmp_path)


def test_yaml_is_read_by_its_version_1_2() -> None:
    text = "a: 1e-3\nb: yes\nc: 12:30\nd: 2020-01-01\ne: 0x10\nf: true\n2020: ~\nyes: off\ng: {<<: {x: 1}, y: 2}\n"
    assert read_yaml_text(text, "x")[0] == {
        "a": 0.001, "b": "yes", "c": "12:30", "d": "2020-01-01", "e": 16, "f": True, "2020": None, "yes": "off",
        "g": {"x": 1, "y": 2},
    }  # fmt: skip


def test_the_nearest_name_is_named() -> None:
    mistakes = Mistakes("x.yaml")
    fitted({"hew": 0.1}, Recipe, mistakes)
    assert "did you mean hue?" in mistakes.found[0]
