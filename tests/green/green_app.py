"""The live application of tests/servers in a patched process, with a second transport that beats twice as often.

GREEN_PATCH says who patches: "gevent" or "eventlet": this application, at its very top; anything else: not here.
"""

import os
import sys
from pathlib import Path

if os.environ.get("GREEN_PATCH") == "gevent":
    from gevent import monkey

    monkey.patch_all()
elif os.environ.get("GREEN_PATCH") == "eventlet":
    import eventlet

    eventlet.monkey_patch()

# For Apache, whose children get no PYTHONPATH.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "servers"))

import live_app  # noqa: E402

from wsgi_messaging import Settings, Transport  # noqa: E402
from wsgi_messaging.middleware import ENVIRON_KEY  # noqa: E402

BRISK = 2.0
"""The second transport's heartbeat."""

_settings = Settings.from_environ()
brisk = Transport(settings=_settings.with_changes(heartbeat=BRISK, app=f"{_settings.app}-brisk"))


def application(environ, start_response):
    """/brisk/... is /... with the second transport."""
    if not environ["PATH_INFO"].startswith("/brisk/"):
        return live_app.application(environ, start_response)
    environ["PATH_INFO"] = environ["PATH_INFO"].removeprefix("/brisk")
    environ[ENVIRON_KEY] = brisk
    return live_app.app(environ, start_response)
