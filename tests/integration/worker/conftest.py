"""Apps over all transports."""

from tests.support.transports import app, rabbit_app, transport_database  # noqa: F401
