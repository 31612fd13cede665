"""`python -m convert.studies NAME`: the paper's experiments, one file for each question."""
