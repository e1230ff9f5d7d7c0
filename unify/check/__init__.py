"""`unify check`: does a kernel compile for each target, and what is slow or wrong there, by the user's line."""
