"""The sampler: a scheduler over a tree of KV pages. Knows tokens; knows nothing of questions and answers."""

from rftfast.engine.params import Generation, Request, SamplingParams
from rftfast.engine.sampler import Sampler

__all__ = ["Generation", "Request", "Sampler", "SamplingParams"]
