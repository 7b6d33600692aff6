"""Control without I/O: the control table, the board of values, and the codecs of OSC and WebSocket messages.

Who uses it: the server process. It imports no torch, asyncio, socket or threading.
"""
