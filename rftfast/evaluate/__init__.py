"""Does it make the model better, and what does it cost: accuracies with intervals, comparisons, fits, costs."""
