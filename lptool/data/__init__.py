"""Data: images by the name of a data set, split into train, val and test, augmented for training and BatchNorm alone.

Read: images (in memory or streamed, `Images`), augment, pictures (files on disk), shards, sources (what each name
reads), dataset (`load_data` and `Data`), corruptions.
"""
