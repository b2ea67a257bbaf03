"""What is measured, against whom, and the one JSON schema of the results (:mod:`bench.schema`).

Each benchmark is a script of this folder that runs from a checkout: ``python bench/throughput.py --help``.
"""
