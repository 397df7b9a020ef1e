"""S3 buckets of users."""
