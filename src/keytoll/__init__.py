"""Keytoll: the key, quota and billing layer of an LLM gateway, beside Envoy."""

from importlib.metadata import version

__version__ = version("keytoll")
