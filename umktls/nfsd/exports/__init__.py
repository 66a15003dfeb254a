"""What is served to whom: exports, their file and its rules, who belongs to which groups.

Begin with exports.py; rules.py has exports(5)'s words, file.py its lines. It touches no file that
is served.
"""
