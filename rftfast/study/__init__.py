"""Whole experiments as one command: a study file says which steps there are, and the steps that are done stay done."""
