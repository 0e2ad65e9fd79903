"""Services: one folder each, one anatomy."""
