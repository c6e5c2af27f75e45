"""What is on disk: paths, records, schemas, and how one shard is encoded."""
