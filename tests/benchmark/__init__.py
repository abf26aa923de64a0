"""The pair beside what people would use instead: python -m benchmark.measure."""
