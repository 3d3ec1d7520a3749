"""Reports: the tables, measures and figures of a run that a person reads."""
