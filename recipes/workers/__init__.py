"""Workers: processes, on one or several machines, that share the trainings of a run."""
