"""Prompt templates: the exact text, files, and what is refused."""

import json
from dataclasses import replace

import pytest

from rftfast.data import TEMPLATES, Question, Template, exemplars, load_questions, load_template
from rftfast.data.prompts import STORED, manifest_template, model_template, save_template
from rftfast.errors import UserError

SHOT = Question("s", "How much is 1+1?", "It is 1+1 = <<1+1=2>>2.\n#### 2")


def test_gsm8k_text():
    expected = (
        "Question: How much is 1+1?\nAnswer: It is 1+1 = <<1+1=2>>2.\n#### 2\n\nQuestion: How much is 2+2?\nAnswer:"
    )
    assert TEMPLATES["gsm8k"].render("How much is 2+2?", [SHOT]) == expected
    assert TEMPLATES["gsm8k"].shots == 8


def test_alpaca_is_the_papers_word_for_word():
    assert TEMPLATES["alpaca"].render("How much is 2+2?") == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nHow much is 2+2?\n\n### Response:"
    )
    assert (TEMPLATES["alpaca"].shots, TEMPLATES["alpaca"].stop) == (0, ())


def test_plain_and_chat():
    assert TEMPLATES["plain"].render("How much is 2+2?") == "How much is 2+2?\n"
    turns = TEMPLATES["chat"].messages("How much is 2+2?", [SHOT])
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert turns[0]["content"].startswith("How much is 1+1?\n")
    assert turns[1]["content"] == SHOT.answer
    assert turns[2]["content"].startswith("How much is 2+2?\n")
    assert TEMPLATES["plain"].messages("x") == [{"role": "user", "content": "x\n"}]


def test_a_chats_system_message_comes_first(tmp_path):
    (tmp_path / "boxed.json").write_text(
        json.dumps({"prompt": "{question}", "chat": True, "system": "Box {shots} it."})
    )
    template = load_template(tmp_path / "boxed.json")
    asked = template.messages("2+2?", [SHOT])
    assert [turn["role"] for turn in asked] == ["system", "user", "assistant", "user"]
    assert asked[0]["content"] == "Box {shots} it."  # as it is written
    assert template.user_text(template.messages("2+2?")) == "2+2?"
    for turns in ([], asked, asked[1:], asked[:1], template.messages("2+2?")[1:], [asked[0], asked[0]]):
        assert template.user_text(turns) is None
    assert template.user_text([{"role": "system", "content": "Other."}, {"role": "user", "content": "2+2?"}]) is None
    plain = replace(template, system="")
    assert plain.user_text([{"role": "user", "content": "2+2?"}]) == "2+2?"
    assert template.asks_as(replace(template, name="x", stop=(";",))) and not template.asks_as(plain)
    told = {"template": "mine", "text": "{question}", "chat": True, "system": "Box it."}
    assert manifest_template(told).messages("q")[0] == {"role": "system", "content": "Box it."}
    assert manifest_template({**told, "system": ""}) == manifest_template(
        {"template": "mine", "text": "{question}", "chat": True}
    )


def test_stop_strings_end_a_solution_and_stand_in_none():
    template = TEMPLATES["gsm8k"]
    text = template.render("q", exemplars(8))
    # What a model in the pattern of the shots writes next: the solution, then the next block.
    for block in text.split("Answer:")[1:-1]:
        assert any(stop in block for stop in template.stop)
    for question in [*load_questions(), *exemplars(8)]:
        assert not any(stop in question.answer for stop in template.stop)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_begin_joins_prompt_and_solution_as_the_shots_do(name):
    template = TEMPLATES[name]
    assert template.begin == (" " if name == "gsm8k" else "")
    assert template.clean(template.begin + "It is 2.\n") == "It is 2.\n"
    if template.shot:
        # A question followed by its solution reads exactly like one more shot.
        both = template.render("a", []) + template.begin + "b\n\n"
        assert both == template.render("c", [Question("", "a", "b")]).removesuffix(template.render("c", []))


def test_a_question_is_never_its_own_shot():
    question = load_questions()[0]
    twin = Question("t", question.question.upper().replace(" ", "  "), "secret")
    text = TEMPLATES["gsm8k"].render(question.question, [SHOT, twin])
    assert "secret" not in text
    assert "How much is 1+1?" in text
    assert len(TEMPLATES["chat"].messages(question.question, [SHOT, twin])) == 3


@pytest.mark.parametrize("text", ["{shots} and {answer}", "{question}", "{0} {x!r} {{}} \\1 \\g<0>", "100% {"])
def test_braces_in_questions_stay_as_they_are(text):
    rendered = TEMPLATES["gsm8k"].render(text, [Question("s", text + "?", text)])
    assert rendered == f"Question: {text}?\nAnswer: {text}\n\nQuestion: {text}\nAnswer:"


def test_text_file(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_bytes(b"Solve: {question}\r\nSolution ({x}):\r\n")
    template = load_template(str(path))
    assert template.render("1+1") == "Solve: 1+1\nSolution ({x}):"
    assert (template.shots, template.stop) == (0, ())
    path.write_text("Some examples.\n\n{shots}Question: {question}\nAnswer:\n")
    template = load_template(path)
    assert template.render("q", [SHOT]).startswith("Some examples.\n\nQuestion: How much")
    assert (template.shots, template.begin) == (8, " ")
    assert "\n\n" in template.stop


def test_json_file(tmp_path):
    path = tmp_path / "mine.json"
    value = {"prompt": "{shots}Q {question} A", "shot": "Q {question} A {answer};", "stop": [";"], "shots": 2}
    path.write_text(json.dumps(value))
    template = load_template(path)
    assert template.render("q", [Question("", "x", "y")]) == "Q x A y;Q q A"
    assert (template.stop, template.shots, template.begin) == ((";",), 2, " ")
    path.write_text(json.dumps({"prompt": "{question}", "stop": "END"}))
    assert load_template(path).stop == ("END",)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "no placeholder", "no {question}"),
        ("a.txt", "{question} {answer}", "{answer}"),
        ("a.json", "{", "invalid JSON"),
        ("a.json", "[]", '"prompt"'),
        ("a.json", '{"prompt": 3}', "must be text"),
        ("a.json", '{"prompt": "{question}", "stops": []}', "unknown keys stops"),
        ("a.json", '{"prompt": "{question}", "stop": [1]}', "list of texts"),
        ("a.json", '{"prompt": "{question}", "stop": [""]}', "empty stop string"),
        ("a.json", '{"prompt": "{shots}{question}", "shot": "{question}"}', "needs both"),
        ("a.json", '{"prompt": "{shots}{question}", "shot": "{shots}{question}{answer}"}', "holds {shots}"),
        ("a.json", '{"prompt": "{question}", "shots": 2}', "no {shots}"),
        ("a.json", '{"prompt": "{question}", "shots": true}', "whole number"),
        ("a.json", '{"prompt": "{question}", "system": "Be terse."}', "only a chat has a system message"),
        ("a.json", '{"prompt": "{question}", "chat": true, "system": null}', '"system" and "name" text'),
    ],
)
def test_bad_template_files(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as caught:
        load_template(tmp_path / name)
    assert expected in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_keeps_its_template(tmp_path):
    assert model_template(tmp_path) is None
    mine = Template("mine", 'A "é" {question}\n', "", (";", "\n\n"))
    for template in (*TEMPLATES.values(), mine, Template("chatty", "{question}", chat=True, system="Sé terse.")):
        file = save_template(template, tmp_path)
        assert model_template(tmp_path) == template == load_template(file)
    (tmp_path / STORED).write_text("{")
    with pytest.raises(UserError, match=STORED):
        model_template(tmp_path)
    (tmp_path / STORED).write_text('{"prompt": "{question}", "chat": 1}')
    with pytest.raises(UserError, match="true or false"):
        model_template(tmp_path)


def test_other_refusals(tmp_path):
    for name in ("gsm9k", str(tmp_path), "x" * 5000, "a\0"):
        with pytest.raises(UserError, match="gsm8k, alpaca, chat, plain"):
            load_template(name)
    (tmp_path / "latin").write_bytes(b"{question} caf\xe9")
    with pytest.raises(UserError, match="not UTF-8"):
        load_template(tmp_path / "latin")
    with pytest.raises(UserError, match="takes no shots"):
        TEMPLATES["alpaca"].render("q", [SHOT])
    with pytest.raises(UserError, match="1 shots"):
        Template("mine", "{question}", shots=1)


def test_exemplars(tmp_path):
    assert exemplars(0) == []
    assert exemplars(3) == exemplars(8)[:3]
    with pytest.raises(UserError, match="holds 8"):
        exemplars(9)
    with pytest.raises(UserError, match="-1 shots"):
        exemplars(-1)
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"query": "q", "response": "r"}))
    assert [(shot.question, shot.answer) for shot in exemplars(1, path)] == [("q", "r")]
    with pytest.raises(UserError, match=r"mine\.jsonl holds 1"):
        exemplars(2, path)
    with pytest.raises(UserError, match="no such file"):
        exemplars(1, "none/such")
