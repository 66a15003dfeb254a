"""Certificates for trying things out: a small CA and the directory it is kept in."""
