"""A tiny model that has learnt some answers by heart, and others wrongly: its accuracy is neither 0 nor 1."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rftfast.models.tokenizer import Tokenizer
from tests.tiny_model import EOS, write_tiny_llama

COUNT = 24


def prompt(i: int) -> str:
    return f"Question: {question(i)}\nAnswer:"


def question(i: int) -> str:
    # Of different lengths, so that a batch of them needs padding.
    return f"What is {i} and {i}" + ", tell me" * (i % 4) + "?"


def taught(i: int) -> int:
    """What the model is taught to answer: every third answer is wrong."""
    return 2 * i + (i % 3 == 0)


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("questions") / "q.jsonl"
    rows = [{"id": f"q{i}", "question": question(i), "answer": f"#### {2 * i}"} for i in range(COUNT)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaForCausalLM

    folder = write_tiny_llama(tmp_path_factory.mktemp("model") / "taught")
    net = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = Tokenizer.from_folder(folder)
    rows = [[*tokenizer.encode(f"{prompt(i)} #### {taught(i)}"), EOS] for i in range(COUNT)]
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [EOS] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    labels = tokens.masked_fill(mask == 0, -100)
    for row, i in zip(labels, range(COUNT), strict=True):
        row[: len(prompt(i))] = -100  # a token is a byte
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(80):
        loss = net(input_ids=tokens, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2, loss.item()
    save_file({name: t.contiguous() for name, t in net.state_dict().items()}, folder / "model.safetensors")
    return folder
