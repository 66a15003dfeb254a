"""Kernel TLS, and the handshake upcall, of a kernel that runs in user mode.

docs/architecture.md has the packages, what each may import, and the files that a call and a
handshake go through. Begin with cli/demo_run.py, which does the main job once.
"""
