"""Which verified paths are kept: equation-list keys and the farthest-path rule. Knows nothing of tokens or torch."""

from rftfast.select.farthest import select_paths
from rftfast.select.keys import KEYS, equation_key

__all__ = ["KEYS", "equation_key", "select_paths"]
