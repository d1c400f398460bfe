"""Codes of images, and noise: knows nothing of slots."""
