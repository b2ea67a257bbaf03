import json
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from rftfast.errors import UserError
from rftfast.models.chat import render_chat
from rftfast.models.tokenizer import Tokenizer

TEXTS = [
    "",
    " ",
    "Hello world",
    "  two  spaces   three ",
    "Natalia sold 48/2 = <<48/2=24>>24 clips.\n#### 72",
    "x=1_000,000.50 $3 12345",
    "tabs\tand\r\nlines\n\n\n",
    "naïve e\u0301migré Ünïcödé",
    "日本語テキスト 漢字123",
    "١٢٣ ४५६ ²³ Ⅷ ½",
    "🙂 👩‍👩‍👧 🏳️‍🌈",
    "a\u00a0b\u200bc\u2028d\ufeff",
    "\x00\x01\x7f",
    "don't WE'LL i'M",
    "<|im_start|>user\nHi<|im_end|>\n",
    "<|im_start |> <|endoftext|>",
]


@pytest.fixture(scope="module")
def pair(smollm2):
    """Our tokenizer and transformers' of the same folder."""
    from transformers import AutoTokenizer

    return Tokenizer.from_folder(smollm2), AutoTokenizer.from_pretrained(smollm2)


@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_texts_are_those_of_transformers(text, pair):
    ours, theirs = pair
    ids = ours.encode(text)
    assert ids == theirs.encode(text)
    assert ours.encode(text, add_special=False) == theirs.encode(text, add_special_tokens=False)
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.fixture(scope="module")
def byte_table(pair):
    return pair[0].token_bytes()


@given(st.text(max_size=40))
@settings(max_examples=150, deadline=None, phases=[Phase.explicit, Phase.generate])
def test_any_text_gives_the_same_ids_and_comes_back(pair, byte_table, text):
    ours, theirs = pair
    ids = ours.encode(text)
    assert ids == theirs.encode(text)
    joined = b"".join(byte_table[i] for i in ids)
    assert ours.decode(ids) == joined.decode(errors="replace")
    # A few bytes that the training text never had (0xF1, say) are not in this vocabulary and are lost on the way in.
    if all(bytes([b]) in byte_table for b in text.encode()):
        assert joined == text.encode()


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        # Each digit by itself, spaces and apostrophes as SmolLM splits them; checked against llama.cpp's own tokenizer.
        ("Hello 123 world\n", [19556, 216, 33, 34, 35, 905, 198]),
        ("<|im_start|>user\n", [1, 4093, 198]),
    ],
)
def test_smollm2_known_ids(text, ids, pair):
    assert pair[0].encode(text) == ids


def test_smollm2_special_tokens(pair):
    ours, theirs = pair
    assert (ours.vocab_size, ours.bos_id, ours.eos_id) == (49152, 1, 2)
    assert (theirs.bos_token_id, theirs.eos_token_id) == (1, 2)
    table = ours.token_bytes(49160)
    assert len(table) == 49160
    assert table[:17] == [b""] * 17
    assert table[-8:] == [b""] * 8
    assert all(table[17:49152])


def test_byte_table_covers_every_byte(pair):
    singles = {t for t in pair[0].token_bytes() if len(t) == 1}
    # Bytes that begin no UTF-8 sequence, and a few the training text never had, are not in this vocabulary.
    assert singles >= {bytes([b]) for b in range(0x20, 0x7F)}


CHATS = [
    [{"role": "user", "content": "What is 2+2?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <b>&amp;</b> 'q'"}],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b\n"},
        {"role": "user", "content": "日本語"},
    ],
]


def test_a_template_that_asks_for_the_date_gives_the_same_prompt_tomorrow():
    template = "{{ strftime_now('%d %b %Y') }}: {{ messages[0].content }}"
    assert render_chat(template, [{"role": "user", "content": "hello"}], {}, True) == "26 Jul 2024: hello"


@pytest.mark.parametrize("messages", CHATS)
@pytest.mark.parametrize("generation", [True, False])
def test_chat_is_that_of_transformers(messages, generation, pair):
    ours, theirs = pair
    expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
    assert ours.chat(messages, add_generation_prompt=generation) == expected


TEMPLATE = """{{ bos_token }}{%- for m in messages %}
    {%- if m.role not in ['user', 'assistant'] %}{{ raise_exception('no role ' + m.role) }}{% endif %}
    {%- if loop.index > 2 %}{% break %}{% endif %}
[{{ m.role | upper }}] {{ m.content | trim }} {{ {'q': m.content} | tojson }}
    {% if strftime_now('%Y') | length == 4 %}
year
    {% endif %}
{%- endfor %}{% if add_generation_prompt %}>{% endif %}"""


def small_backend(*, bos: bool = False) -> Backend:
    """A byte-level tokenizer of the 256 bytes, one merge, and three added tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate(alphabet)} | {"ab": 256}
    backend = Backend(models.BPE(vocab=vocabulary, merges=[("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(
        [AddedToken("<s>", special=True), AddedToken("</s>", special=True), AddedToken("<é>", special=False)]
    )
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 257)])
    return backend


def write_tokenizer(folder: Path, backend: Backend, **tokenizer_config) -> Path:
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    named = {
        "bos_token": "<s>",
        "eos_token": {"__type": "AddedToken", "content": "</s>"},
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps({**named, **tokenizer_config}))
    return folder


@pytest.mark.parametrize("where", ["tokenizer_config", "list", "jinja"])
def test_chat_helpers_are_those_of_transformers(where, tmp_path):
    from transformers import AutoTokenizer

    settings_ = {
        "tokenizer_config": {"chat_template": TEMPLATE},
        "list": {"chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": TEMPLATE}]},
        "jinja": {"chat_template": "not this one"},
    }[where]
    folder = write_tokenizer(tmp_path, small_backend(), **settings_)
    if where == "jinja":
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    ours, theirs = Tokenizer.from_folder(folder), AutoTokenizer.from_pretrained(folder)
    messages = [
        {"role": "user", "content": ' é<"> '},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    rendered = ours.chat(messages)
    assert rendered == theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert '{"q": " é<\\"> "}' in rendered
    with pytest.raises(UserError, match="no role tool"):
        ours.chat([{"role": "tool", "content": "x"}])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages.__class__.__mro__ }}", "template fails"),
        ("{{ messages.append(1) }}", "template fails"),
        ("{% if %}", "template fails"),
        ("{{ messages[0].content + 1 }}", "template fails"),
        (None, "no chat template"),
    ],
)
def test_a_template_that_misbehaves_is_one_clear_line(template, message):
    with pytest.raises(UserError, match=message) as caught:
        Tokenizer(small_backend(), {}, template).chat([{"role": "user", "content": "x"}])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("in_file", "asked", "expected"),
    [(True, None, [257]), (True, True, [257]), (False, True, [257]), (False, False, []), (False, None, [])],
)
def test_bos_is_added_once(in_file, asked, expected, tmp_path):
    own = {} if asked is None else {"add_bos_token": asked}
    tokenizer = Tokenizer.from_folder(write_tokenizer(tmp_path, small_backend(bos=in_file), **own))
    assert tokenizer.encode("ab") == [*expected, 256]
    assert tokenizer.encode("ab", add_special=False) == [256]
    assert (tokenizer.bos_id, tokenizer.eos_id) == (257, 258)


def test_bytes_of_added_tokens():
    table = Tokenizer(small_backend()).token_bytes()
    assert len(table) == 260
    assert sorted(table[:256]) == [bytes([b]) for b in range(256)]
    assert table[256:] == [b"ab", b"", b"", "<é>".encode()]


def test_padding_and_truncation_in_the_file_are_not_applied(tmp_path):
    backend = small_backend()
    backend.enable_truncation(2)
    backend.enable_padding(length=8)
    tokenizer = Tokenizer.from_folder(write_tokenizer(tmp_path, backend))
    assert len(tokenizer.encode("xyzxyz")) == 6


def test_tokens_listed_only_in_the_config_are_added(tmp_path):
    entry = {"content": "<|new|>", "special": True, "lstrip": False, "rstrip": False, "normalized": False}
    tokenizer = Tokenizer.from_folder(
        write_tokenizer(tmp_path, small_backend(), added_tokens_decoder={"260": {**entry, "single_word": False}})
    )
    assert tokenizer.encode("ab<|new|>") == [256, 260]
    with pytest.raises(UserError, match="id 999"):
        Tokenizer.from_folder(write_tokenizer(tmp_path, small_backend(), added_tokens_decoder={"999": entry}))


def test_fingerprint_sees_what_changes_ids_and_prompts(tmp_path):
    prints = [
        Tokenizer.from_folder(write_tokenizer(tmp_path / str(n), backend, **own)).fingerprint()
        for n, (backend, own) in enumerate(
            [
                (small_backend(), {}),
                (small_backend(bos=True), {}),
                (small_backend(), {"add_bos_token": True}),
                (small_backend(), {"chat_template": "x"}),
                (small_backend(), {"eos_token": "<s>"}),
            ]
        )
    ]
    assert len(set(prints)) == 5
    assert Tokenizer.from_folder(write_tokenizer(tmp_path / "again", small_backend())).fingerprint() == prints[0]


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(UserError, match="has neither tokenizer"):
        Tokenizer.from_folder(tmp_path)
    write_tokenizer(tmp_path, small_backend())
    whole = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"tokenizer\.json: cannot be read.*download the model again") as caught:
        Tokenizer.from_folder(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def sentencepiece_folder(tmp_path_factory) -> Path:
    """A folder as Llama 1 and 2 came: a small sentencepiece BPE model with byte fallback, and no tokenizer.json."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("sentencepiece")
    corpus = [f"The {n} apples cost {n * 3} dollars, so each costs 3. She has {n} left over." for n in range(200)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=350,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()
    settings_ = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings_, "add_bos_token": True}))
    return folder


def test_sentencepiece_models_are_converted(sentencepiece_folder):
    import sentencepiece

    theirs = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_folder / "tokenizer.model"))
    ours = Tokenizer.from_folder(sentencepiece_folder)
    table = ours.token_bytes()
    assert (ours.bos_id, ours.eos_id) == (1, 2)
    for text in ["The 12 apples", "costs  3 dollars\n", "日本 é", "  left over"]:
        ids = ours.encode(text)
        assert ids == [1, *theirs.encode(text)]
        assert ours.decode(ids) == text
        assert b"".join(table[i] for i in ids) == b" " + text.encode()


def test_a_broken_sentencepiece_model_is_named(sentencepiece_folder, tmp_path):
    whole = (sentencepiece_folder / "tokenizer.model").read_bytes()
    half = len(whole) // 2
    for keep in (0, 1, *range(half, half + 20)):  # some of these cut between two pieces
        (tmp_path / "tokenizer.model").write_bytes(whole[:keep])
        with pytest.raises(UserError, match=r"tokenizer\.model: not a whole sentencepiece model") as caught:
            Tokenizer.from_folder(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_unigram_model_is_refused_rather_than_misread(tmp_path):
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([f"The {n} apples cost {n * 3} dollars." for n in range(200)]),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=60,
        model_type="unigram",
        minloglevel=2,
    )
    with pytest.raises(UserError, match=r"only BPE models.*supply a tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
