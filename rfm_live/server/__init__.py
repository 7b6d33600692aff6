"""The asyncio shells round the control core: OSC, HTTP and WebSocket, and the supervision of the other processes.

Who uses it: the CLI. Runs in the server process, everything on one event loop; loads no torch.
"""
