"""An output on a hub: its options, and what `plan` says of it."""
