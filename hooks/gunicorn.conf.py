"""gunicorn -c gunicorn.conf.py app:application      (also: --workers 4 --worker-class gthread --threads 8)

Workers get their transport warmed after the fork and closed at their end. Everything else, such as --bind and
--workers, comes from the command line, $GUNICORN_CMD_ARGS, or $PORT and $WEB_CONCURRENCY.
"""

# With --preload and -k gevent these two lines must come first, before anything else is imported:
# from gevent import monkey
# monkey.patch_all()

from wsgi_messaging.servers.gunicorn import (  # noqa: F401  (gunicorn reads these names)
    post_fork,
    post_worker_init,
    worker_abort,
    worker_exit,
    worker_int,
)

# A hook of your own beside ours (a second definition of the same name would replace it):
# from wsgi_messaging.servers.gunicorn import chain
# post_fork = chain(my_post_fork, post_fork)
