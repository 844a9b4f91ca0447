"""CromSS in Python: segmentation encoders and land-cover maps from free satellite images and cheap, wrong labels."""

__version__ = "0.1.0"
