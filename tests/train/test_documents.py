"""Examples as tokens: what the sampler feeds, then what it would draw, then the end token."""

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from rftfast.errors import UserError
from rftfast.models.resolve import resolve
from rftfast.models.tokenizer import Tokenizer
from rftfast.train.documents import documents
from rftfast.train.examples import Example
from tests.tiny_model import EOS, write_tiny_llama

CORPUS = ["Answer: Natalia sold 48 clips.\nQuestion: How many is 5 and 7?", "Answer: 5 and 7 is 12."] * 20
CHAT = "{% for m in messages %}<u>{{ m.role }}:{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<u>assistant:{% endif %}"


def byte_level() -> Backend:
    """A byte-level BPE whose merges may cross the border of prompt and completion ('r:' + ' 5')."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    return backend


def sentencepiece() -> Backend:
    """As Llama 2's: a space is set before the first word of a text, spaces are part of the words."""
    backend = Backend(models.BPE(byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=200))
    return backend


def tokenizer_of(backend: Backend, *, bos: bool = True, chat: str | None = None) -> Tokenizer:
    backend.add_special_tokens(["<bos>", "<end>", "<u>"])
    if bos:
        pair = ("<bos>", backend.token_to_id("<bos>"))
        backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[pair])
    return Tokenizer(backend, {"bos_token": "<bos>", "eos_token": "<end>"}, chat)


@pytest.fixture(params=[byte_level, sentencepiece], ids=["byte-level", "sentencepiece"])
def tokenizer(request):
    return tokenizer_of(request.param())


@pytest.fixture(scope="module")
def smollm2():
    try:
        return resolve("smollm2-135m-instruct")
    except UserError as error:
        pytest.skip(f"the demo model is not here: {error}")


def text_of(tokenizer: Tokenizer, tokens) -> str:
    table = tokenizer.token_bytes()
    return b"".join(table[t] for t in tokens).decode()


@pytest.mark.parametrize("completion", [" 5 and 7 is 12.", "5 and 7", "\nNatalia", "  two", "12.\n\n"])
def test_prompt_is_what_the_sampler_feeds_and_completion_its_own_text(tokenizer, completion):
    prompt = "Question: How many is 5 and 7?\nAnswer:"
    (found,) = documents([Example("a", prompt, completion, "g")], tokenizer)
    fed = tokenizer.encode(prompt)
    assert fed[0] == tokenizer.bos_id
    assert found.tokens[: found.prompt_length].tolist() == fed
    response = found.tokens[found.prompt_length :]
    assert response[-1] == tokenizer.eos_id
    assert text_of(tokenizer, response[:-1]) == completion  # no space more and none less
    assert found.response_tokens == len(response)
    assert found.tokens.dtype == np.int32


def test_a_token_over_the_border_is_not_made():
    tokenizer = tokenizer_of(byte_level())
    prompt, completion = "Answer", ": Natalia"
    assert tokenizer.encode(prompt + completion)[: len(tokenizer.encode(prompt))] != tokenizer.encode(prompt)
    (found,) = documents([Example("a", prompt, completion, "g")], tokenizer)
    assert found.tokens[: found.prompt_length].tolist() == tokenizer.encode(prompt)
    assert text_of(tokenizer, found.tokens[found.prompt_length : -1]) == completion


def test_the_end_token_is_set_once(tokenizer):
    plain, written = documents([Example("a", "5", " 7", "g"), Example("b", "5", " 7<end>", "g")], tokenizer)
    assert plain.tokens.tolist() == written.tokens.tolist()
    with pytest.raises(UserError, match="b: the end token stands inside"):
        documents([Example("b", "5", " 7<end> 8", "g")], tokenizer)


def test_conversations_go_through_the_chat_template(tokenizer):
    chat = tokenizer_of(byte_level(), chat=CHAT)
    prompt = ({"role": "user", "content": "How many?"},)
    (found,) = documents([Example("a", prompt, "12.", "g")], chat)
    fed = chat.encode(chat.chat(prompt), add_special=False)
    assert found.tokens[: found.prompt_length].tolist() == fed  # no BOS but the template's own
    assert found.tokens[-1] == chat.eos_id
    assert text_of(chat, found.tokens[found.prompt_length : -1]) == "12."
    with pytest.raises(UserError, match="a: the prompt is messages, and the model has no chat template"):
        documents([Example("a", prompt, "12.", "g")], tokenizer)
    changing = tokenizer_of(byte_level(), chat=CHAT.replace("<u>assistant:", "<u>assistant: think"))
    with pytest.raises(UserError, match="otherwise than it asks"):
        documents([Example("a", prompt, "12.", "g")], changing)


def test_a_rendered_prompt_gets_no_second_bos(tokenizer):
    once, told, bare = documents(
        [
            Example("a", "<bos>5", " 7", "g"),
            Example("b", "<bos>5", " 7", "g", rendered=True),
            Example("c", "5", " 7", "g", rendered=True),
        ],
        tokenizer,
    )
    assert once.tokens.tolist() == told.tokens.tolist()
    assert (once.tokens == tokenizer.bos_id).sum() == 1
    assert (bare.tokens == tokenizer.bos_id).sum() == 0


def test_what_cannot_be_trained_is_refused(tmp_path):
    bare = Tokenizer.from_folder(write_tiny_llama(tmp_path / "tiny"))
    example = Example("a", "x", "y", "g")
    with pytest.raises(UserError, match="no end token"):
        documents([example], bare)
    (found,) = documents([example], bare, eos_id=EOS)
    assert found.tokens.tolist() == [*bare.encode("x"), *bare.encode("y"), EOS]
    with pytest.raises(UserError, match="prompt is empty"):
        documents([Example("a", "", "y", "g")], bare, eos_id=EOS)
    with pytest.raises(UserError, match="no tokens"):
        documents([Example("a", "x", "<end>", "g")], bare, eos_id=EOS)


def test_gsm8k_with_a_real_tokenizer(gsm8k_dir, smollm2):
    from rftfast.data.prompts import TEMPLATES
    from rftfast.train.examples import read_examples

    tokenizer = Tokenizer.from_folder(smollm2)
    examples = read_examples(gsm8k_dir / "test.jsonl", TEMPLATES["gsm8k"])[:200]
    for example, found in zip(examples, documents(examples, tokenizer), strict=True):
        assert found.tokens[: found.prompt_length].tolist() == tokenizer.encode(example.prompt)
        assert tokenizer.decode(found.tokens.tolist()) == example.prompt + example.completion
