"""Noisy labels for images one has: one module a labeller, arrays in and arrays out; `run` joins them with files.

spectral    thresholds on the colours of a Sentinel-2 image       polygons, tags   OpenStreetMap areas, burnt
warped      label maps of any grid, nearest neighbour             catalog          the same, found by STAC
soft        class probabilities to label and confidence           agreement        several label maps to one
earth_engine   Dynamic World composites by Earth Engine           output           the files that are written
"""
