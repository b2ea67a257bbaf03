"""Sentencepiece BPE tokenizers (Llama 1 and 2, Mistral), rebuilt on the ``tokenizers`` library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from rftfast.errors import UserError

# Types of pieces, numbered alike in sentencepiece and in GGUF.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
_SPACE = "\u2581"


def tokenizer_from_pieces(
    pieces: Sequence[str], scores: Sequence[float], types: Sequence[int], *, unknown: int, space_prefix: bool
) -> Tokenizer:
    """A tokenizer equal to the sentencepiece BPE model with these pieces; special tokens not added yet.

    ``space_prefix`` puts a space in front of every text (and takes it away on decoding).
    """
    ids = {piece: i for i, piece in enumerate(pieces)}
    # Sentencepiece always joins the pair whose result scores best. As a list of merges that is every way to cut a
    # piece into two pieces, best result first.
    merges = sorted(
        (-scores[i], ids[piece[:cut]], ids[piece[cut:]], piece[:cut], piece[cut:])
        for piece, i in ids.items()
        for cut in range(1, len(piece))
        if types[i] == NORMAL and piece[:cut] in ids and piece[cut:] in ids
    )
    tokenizer = Tokenizer(
        models.BPE(
            vocab=ids,
            merges=[(left, right) for *_, left, right in merges],
            unk_token=pieces[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if space_prefix else spaces
    parts = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if space_prefix else parts)
    return tokenizer


def add_whole_tokens(tokenizer: Tokenizer, pieces: Sequence[str], types: Sequence[int]) -> None:
    """Make unknown, control (both special) and user-defined pieces tokens that are matched whole, before merging."""
    tokenizer.add_tokens(
        [
            AddedToken(piece, special=type_ != USER_DEFINED, normalized=False)
            for piece, type_ in zip(pieces, types, strict=True)
            if type_ in (UNKNOWN, CONTROL, USER_DEFINED)
        ]
    )


def put_in_front(tokenizer: Tokenizer, token: str, token_id: int) -> None:
    """Let the tokenizer begin every text with ``token`` (the BOS)."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token}:1 $B:1", special_tokens=[(token, token_id)]
    )


def tokenizer_from_model(file: Path, *, add_bos: bool) -> Tokenizer:
    """Read a sentencepiece ``tokenizer.model``. ``UserError`` when it is corrupt or cannot be rebuilt exactly."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    try:
        model.ParseFromString(file.read_bytes())
    except (DecodeError, OSError) as error:
        raise UserError(f"{file}: not a whole sentencepiece model ({error}): download the model again") from None
    pieces, types = [p.piece for p in model.pieces], [p.type for p in model.pieces]
    trainer, rules = model.trainer_spec, model.normalizer_spec
    # A file cut between two pieces still parses, but the settings that stand after the pieces are gone.
    whole = model.HasField("trainer_spec") and model.HasField("normalizer_spec")
    if not whole or not 0 <= trainer.unk_id < len(pieces):
        raise UserError(f"{file}: not a whole sentencepiece model (its settings are missing): download the model again")
    if trainer.model_type != trainer.BPE or rules.precompiled_charsmap or rules.remove_extra_whitespaces:
        raise UserError(f"{file}: only BPE models that leave the text as it is are read: supply a tokenizer.json")
    tokenizer = tokenizer_from_pieces(
        pieces,
        [p.score for p in model.pieces],
        types,
        unknown=trainer.unk_id,
        space_prefix=rules.add_dummy_prefix,
    )
    add_whole_tokens(tokenizer, pieces, types)
    if add_bos and 0 <= trainer.bos_id < len(pieces):
        put_in_front(tokenizer, pieces[trainer.bos_id], trainer.bos_id)
    return tokenizer
