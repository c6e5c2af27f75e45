"""Files and folders, as the store needs them: durable writes, locks, listings."""
