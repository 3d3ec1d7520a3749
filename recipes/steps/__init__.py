"""Steps of a run: its folder, the teacher, the prototypes, a student."""
