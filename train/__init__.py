"""Trainers with FSDP2, one entry script per method. Imports ``rftfast.data`` and ``rftfast.ops``, never the engine."""
