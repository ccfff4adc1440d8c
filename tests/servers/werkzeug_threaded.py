"""Werkzeug's server with a thread for each request: `python werkzeug_threaded.py PORT`. Ends on SIGINT."""

import sys

from live_app import application
from werkzeug.serving import run_simple

run_simple("127.0.0.1", int(sys.argv[1]), application, threaded=True)
