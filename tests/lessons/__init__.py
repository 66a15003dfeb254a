"""Each lesson is played, and what it has seen is compared with what is true.

Begin with played.py.
"""
