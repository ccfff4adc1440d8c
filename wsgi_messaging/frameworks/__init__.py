"""Messaging in the words of a web framework: its configuration, its request, its transaction.

Each module stands for one framework, is imported by name and wants nothing but that framework. Where none is needed
(Falcon, plain WSGI), `MessagingMiddleware` around the application is all there is to do.
"""
