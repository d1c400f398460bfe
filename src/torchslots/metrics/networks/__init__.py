"""Public networks whose features the picture metrics compare, defined in plain torch; `weights` reads their files."""
