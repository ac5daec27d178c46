"""The example service on a cache that is opened before the fork of gunicorn --preload, for test_service.py."""

from __future__ import annotations

from app import create_app, open_cache

cache = open_cache()
cache.get("item:0")  # used in the parent too: its threads run when the workers are forked
app = create_app(cache)
