"""Pictures and videos that no camera saw: how models draw, compositions of slots, libraries of concepts."""
