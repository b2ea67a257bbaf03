"""Triton kernels, one file per kernel. The first of them arrive with the GPU backends of ``rftfast.ops``."""
