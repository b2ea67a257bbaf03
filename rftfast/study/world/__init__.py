"""A small world of grade-school word problems in GSM8K's format, made by rule: what the ``tiny`` study trains on.

Everything is a function of a seed. Problems come with solutions that ``rftfast.verify`` accepts; the pre-training text
speaks the same language and solves none of them. Knows nothing of torch.
"""

from rftfast.study.world.problems import Problem, make_problems, split_problems
from rftfast.study.world.prose import make_text
from rftfast.study.world.tokenizer import build_tokenizer, save_tokenizer

__all__ = ["Problem", "build_tokenizer", "make_problems", "make_text", "save_tokenizer", "split_problems"]
