"""The compiled core's library and its sources; `modelsync_protocol.native` finds and calls it."""
