SELECT bucket, origin, n FROM delay_buckets ORDER BY bucket NULLS FIRST, origin
