"""Experiments: the paper's questions, what each part of the codec is worth, and how training compares.

One command a study, each with one flat CSV.
"""
