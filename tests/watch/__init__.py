"""The page of `umktls watch`: its feed, its server, what it does in a browser."""
