"""Four stories of caches that went stale, as programs: each runs the textbook's way and Freshet's on the same load.

    python -m stories.async_sqlalchemy      inconsistent results with async SQLAlchemy
    python -m stories.pool_died             when the pool died
    python -m stories.high_concurrency      database and cache under high concurrency
    python -m stories.disagree              cache and database disagree

Run them in the folder above.  Each starts its own PostgreSQL with a delayed replica, its own Redis, and two "hosts" of
uvicorn workers, ends them again, and prints a table.  The exit status is 0 only if the textbook's way was seen to go
stale and Freshet's was not.  They need the packages of `freshet[stories]` and, from the system, PostgreSQL and Redis.
"""
