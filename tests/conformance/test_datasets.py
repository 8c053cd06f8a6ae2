"""Every file in datasets/ is tested here because it exists."""

from sandglass.cli.conformance.datasets import *  # noqa: F403 - the tests of the contract
