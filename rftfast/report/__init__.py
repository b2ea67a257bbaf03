"""One self-contained HTML page of a run or a study. Knows nothing of torch."""
