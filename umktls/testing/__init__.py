"""For tests: hosts of both kinds, joined ones, certificates of every kind, faults on the wire."""
