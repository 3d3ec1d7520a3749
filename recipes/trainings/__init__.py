"""Trainings: the schedule, the loop that continues, the folder, the results."""
