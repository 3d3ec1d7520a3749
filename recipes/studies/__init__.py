"""Studies: many trainings under one teacher, and what is measured on trained students."""
