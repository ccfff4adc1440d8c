"""A small Flask API that publishes to RabbitMQ, with an application factory.

    POST /orders   {"item": "tea"}    publishes the order; answers 202 when the broker has confirmed it, 503 when not
    GET  /health/readyz               200 while the worker is connected

    gunicorn -c hooks/gunicorn.conf.py examples.flask_api:application
    flask --app examples.flask_api announce coffee      the same from a command

The broker comes from WSGI_MESSAGING_URL.
"""

from __future__ import annotations

import click
from flask import Blueprint, Flask, jsonify, request
from flask.typing import ResponseReturnValue
from kombu import Queue

from wsgi_messaging import MessagingError
from wsgi_messaging.frameworks.flask import Messaging

ORDERS = Queue("example-orders", durable=True, expires=300)  # it goes five minutes after its last use

messaging = Messaging()
shop = Blueprint("shop", __name__, cli_group=None)


def announce(order: object) -> None:
    messaging.transport.declare(ORDERS)
    messaging.transport.publish(order, routing_key=ORDERS.name)


@shop.post("/orders")
def create_order() -> ResponseReturnValue:
    announce(request.get_json())
    return jsonify(accepted=request.get_json()), 202


@shop.app_errorhandler(MessagingError)
def unavailable(error: MessagingError) -> ResponseReturnValue:
    return jsonify(error=str(error), maybe_sent=error.maybe_sent), 503


@shop.cli.command("announce")
@click.argument("item")
def announce_command(item: str) -> None:
    announce({"item": item})


def create_app(**config: object) -> Flask:
    app = Flask(__name__)
    app.config.update(WSGI_MESSAGING_APP="flask-api", WSGI_MESSAGING_HEALTH_PATH="/health")
    app.config.update(WSGI_MESSAGING_TIMEOUT=2.0)  # seconds that each call waits for the broker
    app.config.update(config)
    messaging.init_app(app)
    app.register_blueprint(shop)
    return app


application = create_app()
