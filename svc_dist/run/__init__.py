"""Executing a plan: units, the run folder, the schedule, the executors, publishing and verifying."""
