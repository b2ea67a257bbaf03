"""The stream: engine to verify to select to run directory. Knows nothing of argument parsing."""
