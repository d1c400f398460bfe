"""Comparisons of the library with recordings of the original programs."""
