"""One function a command. Actions join the rooms and print nothing: what a user hears goes through a Voice.

The doors (command line, Python, server, studio) all stand on these; none of them has a way of its own.
"""
