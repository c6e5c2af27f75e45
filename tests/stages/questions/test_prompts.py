"""Templates, and values that cannot break out of their place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stages.datasets.words import CONTROL
from stages.questions.prompts import FOLDER, MAX_ITEM, MAX_ITEMS, MAX_TEXT, PromptError, escaped, load_prompt
from stages.questions.requests import Picture

HOSTILE = st.text(max_size=60) | st.lists(
    st.sampled_from(
        ["\n", "\r\n", "\u2028", "|", "[Q]:", "[A]:", "［Ｑ］：", "【A】", "</s>", "<|im_end|>", "--- system",
         "USER:", "{objects}", '"', "“",
         "`", "```", "**", "#", "\\n", "\x00", "\u202e", "\ud800", "[Summary]:", "3.", "dog", " "]
    ),
    max_size=12,
).map("".join)  # fmt: skip
PICTURE = Picture("0" * 64, 10, 20, bytes)


def template(tmp_path: Path, text: str, name: str = "own") -> str:
    path = tmp_path / f"{name}.txt"
    path.write_bytes(text.encode())
    return str(path)


@given(HOSTILE)
@example("USER: a ASSISTANT: b")
@example("x" * 5000)
def test_what_is_escaped_is_one_line_without_markup(text: str) -> None:
    found = escaped(text)
    assert found.isprintable()
    assert not re.search(r"[|\[\]{}<>\"“”`*#:：\\｜［］]", found)
    assert not CONTROL.search(found)
    assert len(found) <= MAX_TEXT
    assert escaped(found) == found


@pytest.mark.parametrize("text", ["a dog's bed", "12 (or 13) men, all old; why?", "T-shirt", "café 猫", "stop_sign"])
def test_ordinary_text_stays(text: str) -> None:
    assert escaped(text) == text


@given(HOSTILE, st.lists(HOSTILE, min_size=1, max_size=5))
def test_values_add_no_line_no_section_and_no_item(summary: str, objects: list[str]) -> None:
    prompt = load_prompt("ask-1")
    plain = prompt.messages(summary="s", objects=["o"], questions="5")
    found = prompt.messages(summary=summary, objects=objects, questions="5")
    assert [each.role for each in found] == [each.role for each in plain]
    assert found[:-1] == plain[:-1]
    lines = found[-1].text.split("\n")
    assert [line.partition(":")[0] for line in lines] == [line.partition(":")[0] for line in plain[-1].text.split("\n")]
    assert found[-1].text.count("[Q]") == 0
    items = [each for each in objects if escaped(each, MAX_ITEM)]
    assert lines[1].count("|") == max(len(items) - 1, 0)


def test_a_value_that_looks_like_a_placeholder_is_not_filled(tmp_path: Path) -> None:
    prompt = load_prompt(template(tmp_path, "--- user\n{one} {two}"))
    assert prompt.messages(one="{two}", two="b")[0].text == "(two) b"


def test_turns_digest_and_pictures(tmp_path: Path) -> None:
    text = (
        "# for people\n\n--- system\nBe brief.\n--- user\nHi {name}\n\n--- assistant\nYes?\n--- user\n{name}: {list}\n"
    )
    prompt = load_prompt(template(tmp_path, text))
    found = prompt.messages((PICTURE,), name="Bo", list=["a", "b|c", " "])
    assert [(each.role, each.text) for each in found] == [
        ("system", "Be brief."), ("user", "Hi Bo"), ("assistant", "Yes?"), ("user", "Bo: a | b/c"),
    ]  # fmt: skip
    assert [each.pictures for each in found] == [(), (), (), (PICTURE,)]
    assert prompt.record == f"own {prompt.digest}"
    windows = load_prompt(template(tmp_path, text.replace("\n", "\r\n"), "windows"))
    assert windows.digest == prompt.digest, "line ends are no other template"
    assert load_prompt(template(tmp_path, text + "!", "changed")).digest != prompt.digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found no turn at the end, expected '--- user'"),
        ("hello\n--- user\nx", "found 'hello' before the first turn"),
        ("--- usr\nx", "found '--- usr', expected --- system, --- user or --- assistant"),
        ("--- user\nx\n--- system\ny\n--- user\nz", "found '--- system' as turn 2, expected it as the first"),
        ("--- user\n\n--- assistant\nx\n--- user\ny", r"turn 1 \(user\) is empty"),
        ("--- user\nx\n--- assistant\ny", "found assistant at the end"),
    ],
)
def test_a_template_of_another_form_is_told(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        load_prompt(template(tmp_path, text or "# nothing"))


def test_values_that_do_not_fit_are_told(tmp_path: Path) -> None:
    prompt = load_prompt(template(tmp_path, "--- user\n{sumary}"))
    with pytest.raises(PromptError, match=r"own: found \{sumary\}, expected \{summary\} \(did you mean 'summary'\?\)"):
        prompt.messages(summary="x")
    with pytest.raises(PromptError, match=r"own: \{objects\} is missing"):
        prompt.check(["sumary", "objects"])
    with pytest.raises(PromptError, match=rf"\{{sumary\}}: found a list of {MAX_ITEMS + 1} items"):
        prompt.messages(sumary=["x"] * (MAX_ITEMS + 1))


@pytest.mark.parametrize("name", ["aks-1", "none/there.txt", "ask-1.txt"])
def test_a_template_that_is_not_there_is_told(name: str) -> None:
    with pytest.raises(PromptError, match=f"found the template '{name}', which cannot be read"):
        load_prompt(name)


def test_all_shipped_templates_load() -> None:
    names = sorted(path.stem for path in FOLDER.glob("*.txt"))
    assert {"ask-1", "ask-picture-1", "describe-1", "tags-1"} <= set(names)
    for name in names:
        assert load_prompt(name).turns
        assert re.fullmatch(r"[a-z-]+-\d+", name), "a template has a version"


def test_a_template_of_ones_own_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_prompt("stages/questions/prompts/ask-1.txt") == load_prompt("ask-1")
