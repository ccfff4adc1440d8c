"""What makes us understood by oslo.messaging's peers: its wire format, byte for byte."""
