"""Trainings of their own kind, which recipes name as `Run.task`: their modules are imported when they are built."""
