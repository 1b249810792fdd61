"""Named bytes anywhere: on a disk, in a bucket, on a hub."""
