"""Werkzeug's server with a greenlet for each request: `python werkzeug_green.py PORT`. Ends on SIGINT."""

import sys

from green_app import application  # first: it patches
from werkzeug.serving import run_simple

run_simple("127.0.0.1", int(sys.argv[1]), application, threaded=True)
