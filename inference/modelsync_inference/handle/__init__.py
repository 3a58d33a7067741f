"""What applications hold: HotModel, its asyncio form, its settings, and a server's collection of models.

May import follow, model, processes and runtimes. It never speaks a network protocol.
"""
