"""The two levels of features that a student is supervised at, in the order of the paper."""

LEVELS = ("penultimate", "intermediate")
