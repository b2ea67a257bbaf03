"""Reading training examples: what a file is, what its rows become, and what is refused."""

import json

import pytest

from rftfast.data.prompts import TEMPLATES
from rftfast.errors import UserError
from rftfast.train.examples import Example, read_examples, stored_template
from tests.made_runs import make_run, write_jsonl

USER, ASSISTANT = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}


def test_rows_of_a_run_keep_question_and_sample(tmp_path):
    run = make_run(tmp_path / "run", {"q1": ["1+1=<<1+1=2>>2, <<2+1=3>>3\n#### 3", "wrong\n#### 9"], "q2": ["?"]})
    found = read_examples(run)
    assert [(e.id, e.group) for e in found] == [("q1/gold", "q1"), ("q1/0", "q1"), ("q2/gold", "q2")]
    assert found[0].prompt == found[1].prompt == "Question: What is 1+1+1?\nAnswer:"
    assert found[1].completion.startswith(" 1+1=")
    assert not found[0].rendered
    assert read_examples(run / "rft.jsonl") == found


def test_template_of_a_run_comes_without_shots(tmp_path):
    run = make_run(tmp_path / "run", {"q1": ["#### 3"]})
    template = stored_template(run)
    assert template == stored_template(run / "rft.jsonl")
    assert (template.name, template.shots) == ("gsm8k", 0)
    assert template.render("Why?") == "Question: Why?\nAnswer:"
    other = write_jsonl(tmp_path / "rft.jsonl", [{"prompt": "a", "completion": "b"}])
    assert stored_template(other) is None


def test_a_chat_run_holds_rendered_prompts(tmp_path):
    chat = {"prompt": {"template": "chat", "text": TEMPLATES["chat"].prompt, "shot": "", "stop": []}}
    run = make_run(tmp_path / "run", {"q1": []}, config=chat)
    assert all(example.rendered for example in read_examples(run))
    assert stored_template(run).chat


def test_a_template_of_ones_own_says_whether_it_is_a_chats(tmp_path):
    for name, said, chat in (("mine", {"chat": True}, True), ("mine", {}, False), ("chat", {"chat": False}, False)):
        mine = {"prompt": {"template": name, "text": "Say: {question}", "shot": "", "stop": []} | said}
        run = make_run(tmp_path / f"{name}-{chat}", {"q1": []}, config=mine)
        assert [example.rendered for example in read_examples(run)] == [chat]
        assert stored_template(run).chat is chat


def test_prompt_completion_texts_are_taken_as_they_are(tmp_path):
    rows = [
        {"prompt": " p ", "completion": " c"},
        {"prompt": " p ", "completion": " d"},
        {"prompt": "q", "completion": "e"},
    ]
    a, b, c = read_examples(write_jsonl(tmp_path / "x.jsonl", rows))
    assert (a.prompt, a.completion, b.completion) == (" p ", " c", " d")
    assert a.group == b.group != c.group
    assert len({a.id, b.id, c.id}) == 3


def test_ids_of_the_file_are_kept_and_told_apart(tmp_path):
    rows = [{"prompt": "p", "completion": "c", "id": name} for name in ("a", "b", "a", "a#2", 7)]
    assert [e.id for e in read_examples(write_jsonl(tmp_path / "x.jsonl", rows))] == ["a", "b", "a#3", "a#2", "7"]


@pytest.mark.parametrize(
    "row", [{"messages": [USER, ASSISTANT]}, {"prompt": [USER], "completion": [ASSISTANT]}], ids=["messages", "pair"]
)
def test_messages(tmp_path, row):
    (found,) = read_examples(write_jsonl(tmp_path / "x.jsonl", [row]))
    assert (found.prompt, found.completion) == ((USER,), "4")


def test_only_the_last_turn_of_a_conversation_is_learned(tmp_path):
    (found,) = read_examples(write_jsonl(tmp_path / "x.jsonl", [{"messages": [USER, ASSISTANT, USER, ASSISTANT]}]))
    assert found.prompt == (USER, ASSISTANT, USER)


def test_questions_are_put_into_the_template(tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", [{"question": "Why? ", "answer": "So.\n#### 1"}])
    (found,) = read_examples(path, TEMPLATES["gsm8k"])
    assert found == Example(found.id, "Question: Why?\nAnswer:", " So.\n#### 1", found.group)
    (alpaca,) = read_examples(path, TEMPLATES["alpaca"])
    assert alpaca.completion == "So.\n#### 1"
    (chat,) = read_examples(path, TEMPLATES["chat"])
    assert chat.prompt[0]["role"] == "user" and "Why?" in chat.prompt[0]["content"]
    with pytest.raises(UserError, match="--prompt"):
        read_examples(path)


def test_json_and_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"prompt": "p", "completion": "c", "question_id": "q", "sample_index": None, "source": "gold"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    (tmp_path / "x.json").write_text(json.dumps(rows))
    assert read_examples(tmp_path / "x.parquet") == read_examples(tmp_path / "x.json")
    assert read_examples(tmp_path / "x.json")[0].id == "q/gold"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "completion": " \n"}, r"x\.jsonl, line 1.*empty"),
        ({"prompt": "p", "completion": None}, r"line 1.*as text"),
        ({"prompt": "p\ud800", "completion": "c"}, "half a Unicode pair"),
        ({"text": "t"}, r"no columns to train on \(found text\)"),
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, "pairs of answers"),
        ({"kind": "question", "question_id": "q"}, "the run's folder"),
        ({"messages": [USER]}, "line 1.*assistant"),
        ({"messages": "hi"}, "no list of messages"),
        ({"messages": [{"role": "user"}, ASSISTANT]}, "role or a content"),
        ({"messages": [USER, {"role": "assistant", "content": ""}]}, "empty"),
        ({"prompt": [USER], "completion": [USER]}, "one message of the assistant"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, message):
    with pytest.raises(UserError, match=message) as caught:
        read_examples(write_jsonl(tmp_path / "x.jsonl", [row]))
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no run directory"):
        read_examples(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        read_examples(tmp_path / "nothing.jsonl")
    run = make_run(tmp_path / "run", {"q1": []})
    (run / "rft.jsonl").unlink()
    with pytest.raises(UserError, match=r"rft\.jsonl"):
        read_examples(run)
