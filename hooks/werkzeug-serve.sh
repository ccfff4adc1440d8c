#!/bin/sh
# sh werkzeug-serve.sh app:application [more options of `wsgi-messaging serve`]
#
# N lasting processes of Werkzeug's server on one port, each with its own connection to the broker.
# SIGHUP reloads the application, SIGTERM and SIGINT end; both let requests in flight finish.
exec wsgi-messaging serve \
    --host "${HOST:-127.0.0.1}" --port "${PORT:-8000}" --processes "${WEB_CONCURRENCY:-2}" --threads "$@"
