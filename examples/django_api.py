"""A small Django API in one file: an order is announced on RabbitMQ when its transaction is committed.

    POST /orders   {"item": "tea"}    stores and announces the order; answers 202 when the broker has confirmed it
    GET  /health/readyz               200 while the worker is connected

    gunicorn -c hooks/gunicorn.conf.py examples.django_api:application

The broker comes from WSGI_MESSAGING_URL.
"""

from __future__ import annotations

import json

from django.conf import settings
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from kombu import Queue

from wsgi_messaging import MessagingError
from wsgi_messaging.frameworks.django import get_transport, get_wsgi_application, publish_on_commit

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=["wsgi_messaging.frameworks.django"],  # for `manage.py check`
    ROOT_URLCONF=__name__,
    WSGI_MESSAGING={"APP": "django-api", "HEALTH_PATH": "/health"},
)

ORDERS = Queue("example-orders", durable=True, expires=300)  # it goes five minutes after its last use


def create_order(request: HttpRequest) -> HttpResponse:
    order = json.loads(request.body)
    try:
        get_transport().declare(ORDERS, timeout=2.0)
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("CREATE TABLE IF NOT EXISTS orders (item TEXT NOT NULL)")
                cursor.execute("INSERT INTO orders VALUES (%s)", [order["item"]])
            publish_on_commit(order, routing_key=ORDERS.name, timeout=2.0)
    except MessagingError as exc:
        # From the end of the block the order is in the database; maybe_sent: whether the broker may have it, too.
        return JsonResponse({"error": str(exc), "maybe_sent": exc.maybe_sent}, status=503)
    return JsonResponse({"accepted": order}, status=202)


urlpatterns = [path("orders", create_order)]
application = get_wsgi_application()
