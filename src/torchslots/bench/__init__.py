"""Speed and memory of a recipe, at its own size or another, and how they grow."""
