"""From a model's name to a decoder: resolving, reading weights, running them on ``rftfast.ops``."""
