"""What command words do with their settings, a file each: each returns rows and prints its table."""
