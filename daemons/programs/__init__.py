"""The programs rpctlscd and rpctlssd, and all that makes a program of them.

Begin with rpctlscd.py and service.py (which upcall is answered how); options.py and running.py are
what both have in common. They may touch sessions and tls.
"""
