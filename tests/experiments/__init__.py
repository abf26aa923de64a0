"""The figures of the README's analysis: python -m experiments.measure."""
