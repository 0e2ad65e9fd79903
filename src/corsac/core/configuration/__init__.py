"""Behind the configuration store: layers, versions, views, and the file with its watch."""
