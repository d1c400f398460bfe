"""Public networks whose features the image metrics compare, defined in plain torch; `weights` reads their files."""
