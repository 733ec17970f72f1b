"""The whole delivery system on one machine without Docker: a broker, Valkey and receivers from PyPI."""
