"""For all tests: a law is tried on as many examples as ever, however slow the machine is at the moment."""

from hypothesis import settings

settings.register_profile("foldscape", deadline=None)
settings.load_profile("foldscape")
