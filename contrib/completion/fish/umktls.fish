# fish completion for umktls(1).
_UMKTLS_COMPLETE=fish_source umktls | source
