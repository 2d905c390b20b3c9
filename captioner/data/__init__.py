"""Data: readers of caption data sets, the toy world, and (with torch) batches and the feature cache."""
