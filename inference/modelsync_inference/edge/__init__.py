"""The model as an IoT Edge module: messages from routed inputs are scored, thinned out and sent to an output."""
