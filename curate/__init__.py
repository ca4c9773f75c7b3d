"""Data in, data out: read, clean, attribute, select, export. A plain library that knows no orchestration."""
