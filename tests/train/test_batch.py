"""Rows as tensors: tokens, positions, labels and the layout."""

import numpy as np
import torch

from rftfast.train.batch import IGNORED, collate
from rftfast.train.documents import Document
from rftfast.train.packing import Row, Unit


def doc(name: str, prompt: list[int], response: list[int], weights=None) -> Document:
    tokens = np.array(prompt + response, np.int32)
    return Document(name, tokens, len(prompt), "g", None if weights is None else np.array(weights, np.float32))


A = doc("a", [1, 2, 3], [4, 5])
B = doc("b", [1, 2, 3], [6, 7, 8], [9, 9, 9, 0.5, 0, -1])
C = doc("c", [9], [8, 7])
NO = IGNORED


def test_documents_side_by_side():
    batch = collate(Row((Unit((A,)), Unit((C,))), 100))
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5, 9, 8, 7]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]]
    assert batch.labels.tolist() == [NO, NO, 4, 5, NO, 8, 7, NO]
    assert batch.loss_positions.tolist() == [2, 3, 5, 6]
    assert batch.cu_seqlens.tolist() == [0, 5, 8]
    assert (batch.max_seqlen, batch.layout.longest, batch.tree) == (5, 5, None)
    assert (batch.ids, batch.response_tokens, batch.useful_tokens) == (("a", "c"), 4, 8)
    assert batch.input_ids.dtype == batch.position_ids.dtype == batch.labels.dtype == torch.int64
    assert batch.cu_seqlens.dtype == torch.int32


def test_weights_stand_where_their_token_is_predicted():
    batch = collate(Row((Unit((C,)), Unit((B,))), 100))
    assert batch.labels.tolist() == [8, 7, NO, NO, NO, 6, NO, 8, NO]  # no loss, no label
    assert batch.weights.tolist() == [1, 1, 1, 1, 1, 0.5, 0, -1, 1]


def test_a_shared_prompt_comes_first_and_once():
    batch = collate(Row((Unit((C,)), Unit((A, B))), 100))
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5, 3, 6, 7, 8, 9, 8, 7]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 2, 3, 4, 5, 0, 1, 2]]
    assert batch.labels.tolist() == [NO, NO, 4, 5, NO, 6, NO, 8, NO, 8, 7, NO]
    assert batch.weights.tolist() == [1, 1, 1, 1, 1, 0.5, 0, -1, 1, 1, 1, 1]
    assert batch.cu_seqlens.tolist() == [0, 2, 5, 9, 12]
    tree = batch.tree
    assert (tree.prefix_end, tree.path_end, tree.max_paths, tree.max_prefix) == (2, 9, 7, 2)
    assert (tree.cu_paths.tolist(), tree.cu_prefixes.tolist()) == ([0, 7], [0, 2])
    assert (batch.layout.longest, batch.max_seqlen) == (6, 4)
    assert (batch.response_tokens, batch.useful_tokens) == (6, 14)


def test_a_dummy_has_positions_but_no_labels():
    batch = collate(Row((), 100))
    assert (batch.labels == IGNORED).all() and batch.response_tokens == 0 and batch.ids == ()
    assert batch.input_ids.shape == batch.position_ids.shape == (1, 2)


def test_a_row_is_filled_up_with_a_segment_of_its_own():
    plain, filled = (collate(Row((Unit((C,)), Unit((A, B))), 100), multiple) for multiple in (1, 8))
    assert filled.input_ids.shape == (1, 16) and filled.labels[12:].eq(IGNORED).all()
    assert filled.cu_seqlens.tolist() == [*plain.cu_seqlens.tolist(), 16]
    assert filled.position_ids[0, 12:].tolist() == [0, 1, 2, 3]
    assert torch.equal(filled.loss_positions, plain.loss_positions)
    assert (filled.response_tokens, filled.useful_tokens) == (plain.response_tokens, plain.useful_tokens)
    assert (filled.ids, filled.layout.longest) == (plain.ids, plain.layout.longest)
    assert collate(Row((Unit((A,)),), 100), 5).cu_seqlens.tolist() == [0, 5]


def test_moving_takes_everything_along():
    batch = collate(Row((Unit((A, B)),), 100)).to("meta")
    tensors = [batch.input_ids, batch.position_ids, batch.labels, batch.weights, batch.loss_positions]
    assert {x.device.type for x in [*tensors, batch.cu_seqlens, batch.tree.cu_paths, batch.tree.cu_prefixes]} == {
        "meta"
    }
