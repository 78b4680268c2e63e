"""What a run leaves on the disk: typed records, written and read only through this package."""
