"""Stages on Dask workers."""
