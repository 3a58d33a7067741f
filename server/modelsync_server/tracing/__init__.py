"""One trace from publish to swap: W3C trace contexts, spans made of what devices report, handed over by OTLP.

It imports no other room, and OpenTelemetry only when somebody asks for a trace. Devices export nothing themselves.
"""
