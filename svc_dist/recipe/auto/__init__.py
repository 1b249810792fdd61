"""A recipe that leaves its merge method or its calibration to ``auto``."""
