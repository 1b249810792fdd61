"""A series: outputs of one merge whose names differ in the date."""
