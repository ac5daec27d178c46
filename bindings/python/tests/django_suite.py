# ruff: noqa: PT009, PT027 (Django's tests are unittest's)
"""Django's own tests of cache backends, run on FreshetCache: `python django_suite.py DJANGO/tests URL KEYRING DIR`.

A program of its own, since Django is configured once in a process.  What of BaseCacheTests does not apply is excluded
by name below, with the reason.  Ends with unittest's summary and status.
"""

from __future__ import annotations

import sys
from typing import Any

EXCLUDED = {
    "test_cull": "the tier is bounded in bytes and evicts by use; MAX_ENTRIES and CULL_FREQUENCY count entries",
    "test_zero_cull": "likewise",
    "test_cull_delete_when_store_empty": "likewise",
}


def suite(cache_options: dict[str, Any]) -> Any:
    """The test case, made when Django is configured."""
    import unittest

    from cache import tests  # type: ignore[import-not-found, unused-ignore]
    from django.core.cache import cache
    from django.test import TestCase, override_settings

    caches = tests.caches_setting_for_tests(**cache_options)

    def incr_decr_timeout(self: Any) -> None:
        """As LocMemCacheTests.test_incr_decr_timeout, which looks into locmem's own tables."""
        cache.set("value", 1, timeout=60)
        before = cache.freshet.lookup(cache.make_key("value")).ttl
        cache.incr("value")
        cache.decr("value")
        self.assertLessEqual(cache.freshet.lookup(cache.make_key("value")).ttl, before)
        self.assertGreater(cache.freshet.lookup(cache.make_key("value")).ttl, before - 10)

    excluded = {name: unittest.skip(reason)(lambda self: None) for name, reason in EXCLUDED.items()}
    base = type(
        "FreshetCacheTests", (tests.BaseCacheTests, TestCase), {**excluded, "test_incr_decr_timeout": incr_decr_timeout}
    )
    cases = [override_settings(CACHES=caches)(base)]

    # The asynchronous ones are written for the dummy cache, which keeps nothing: only this one asks of all backends.
    class FreshetAsync(TestCase):  # type: ignore[misc]
        async def test_asynchronous_methods(self) -> None:
            await cache.aset("a", 1)
            self.assertEqual(await cache.aget("a"), 1)
            self.assertEqual(await cache.aincr("a", 4), 5)
            self.assertEqual(await cache.adecr("a"), 4)
            self.assertIs(await cache.aadd("a", 9), False)
            self.assertIs(await cache.aadd("b", 9), True)
            self.assertEqual(await cache.aget_many(["a", "b", "c"]), {"a": 4, "b": 9})
            self.assertEqual(await cache.aset_many({"c": 1, "d": None}), [])
            self.assertIs(await cache.ahas_key("d"), True)
            self.assertIsNone(await cache.aget("d", "default"))
            self.assertEqual(await cache.aget_or_set("e", lambda: 7), 7)
            self.assertEqual(await cache.aget_or_set("e", 8), 7)
            self.assertIs(await cache.atouch("e", 100), True)
            self.assertIs(await cache.atouch("none", 100), False)
            self.assertEqual(await cache.aincr_version("e"), 2)
            self.assertEqual(await cache.aget("e", version=2), 7)
            self.assertIs(await cache.adelete("c"), True)
            self.assertIs(await cache.adelete("c"), False)
            await cache.adelete_many(["a", "b"])
            self.assertEqual(await cache.aget_many(["a", "b"]), {})
            with self.assertRaises(ValueError):
                await cache.aincr("none")
            await cache.aclear()
            self.assertIs(await cache.ahas_key("d"), False)

    cases.append(override_settings(CACHES=caches)(FreshetAsync))
    return unittest.TestSuite(unittest.defaultTestLoader.loadTestsFromTestCase(case) for case in cases)


def main(tests_folder: str, url: str, keyring: str, folder: str) -> int:
    """Configure Django on SQLite in memory, and run the suite."""
    import unittest

    sys.path.insert(0, tests_folder)
    import django
    from django.conf import settings
    from django.test.utils import setup_databases, setup_test_environment, teardown_databases

    settings.configure(
        DATABASES={name: {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"} for name in ("default", "other")},
        INSTALLED_APPS=["cache"],
        SECRET_KEY="x",
        USE_TZ=False,
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        ROOT_URLCONF=__name__,
    )
    django.setup()
    setup_test_environment()
    databases = setup_databases(0, False)
    try:
        options = {"keyring": keyring, "dir": folder} if url else {"dir": folder}
        cases = suite({"BACKEND": "freshet.django.FreshetCache", "LOCATION": url, "OPTIONS": options})
        result = unittest.TextTestRunner(sys.stdout, verbosity=2).run(cases)
    finally:
        teardown_databases(databases, 0)
    return 0 if result.wasSuccessful() else 1


urlpatterns: list[Any] = []

if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:5]))
