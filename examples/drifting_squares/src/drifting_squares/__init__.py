"""A model and a data set for torchslots, defined outside of it."""
