"""Every file in tasks/ is tested here because it exists."""

from sandglass.cli.conformance.tasks import *  # noqa: F403 - the tests of the contract
