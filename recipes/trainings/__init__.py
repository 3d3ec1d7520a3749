"""Trainings: the schedule, the loop that continues, the workers that share it, the results."""
