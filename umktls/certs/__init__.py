"""Certificates for trying things out: a small CA and the directory it is kept in.

Begin with layout.py (the directory) and pki.py (the CA); kinds.py makes certificates that are bad
in one way each. It may touch files.
"""
