"""Stores that fsspec knows, such as S3: folders in them, copies of these, and who may write."""
