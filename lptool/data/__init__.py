"""Data: images by the name of a data set, split into train, val and test, never augmented but for training.

Read: images (in memory or streamed, `Images`), augment, pictures (files on disk), shards, sources (what each name
reads), dataset (`load_data` and `Data`), corruptions.
"""
