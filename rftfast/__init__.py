"""rftfast: draw many reasoning paths, keep the verified and different ones, train on them.

Importing this package is cheap: ``Sampler`` and ``SamplingParams`` load torch on first use only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Sampler", "SamplingParams", "__version__"]

if TYPE_CHECKING:
    from rftfast.engine import Sampler, SamplingParams


def __getattr__(name: str) -> Any:
    if name in ("Sampler", "SamplingParams"):
        from rftfast import engine

        return getattr(engine, name)
    raise AttributeError(f"module 'rftfast' has no attribute {name!r}")
