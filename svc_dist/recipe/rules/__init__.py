"""What a rule is about: models, layers, calibration."""
