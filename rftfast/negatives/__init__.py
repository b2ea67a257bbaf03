"""What can be learnt from wrong answers (arXiv 2406.14532): values of steps by rollouts, first pits, preference pairs."""
