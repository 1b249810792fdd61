"""S3: botocore's own client in threads, its errors, and the bodies of requests."""
