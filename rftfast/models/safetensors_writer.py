"""A safetensors file written one tensor at a time, so that a model is never whole in memory while it is converted."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def write_safetensors(
    file: Path, entries: Mapping[str, tuple[tuple[int, ...], Callable[[], torch.Tensor]]], dtype: torch.dtype
) -> None:
    """Write ``entries`` (name -> shape, and a function that makes the tensor) as ``dtype`` (float32, float16, bfloat16).

    Format: 8 bytes little-endian length, a JSON header padded to 8 bytes, then the tensors without gaps.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (shape, _) in entries.items():
        size = dtype.itemsize
        for extent in shape:
            size *= extent
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, (shape, make) in entries.items():
            tensor = make().to(dtype).contiguous()
            assert tuple(tensor.shape) == shape, (name, tensor.shape, shape)
            out.write(tensor.view(torch.uint8).numpy().data)
