"""What the tests stand on: a real RabbitMQ, a fault proxy, the real WSGI servers, and polling.

Nothing here imports the package under test, so a harness that works tells nothing but the truth about it.
"""
