"""Every new connection to the database gets a password of its own, valid for 15 minutes, signed
by the machine's role.

Python imports a module of this name as it starts, so that MLflow's worker processes have it too.
"""

import functools
import os
from typing import Any

from sqlalchemy import Engine, event


@functools.cache
def _client() -> Any:
    import boto3  # slow, and most processes open no connection

    return boto3.client("rds")


@event.listens_for(Engine, "do_connect")
def _sign(dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
    if dialect.name == "postgresql" and parameters.get("user") == os.environ["MLFLOW_DATABASE_USER"]:
        parameters["password"] = _client().generate_db_auth_token(
            DBHostname=parameters["host"], Port=int(parameters["port"]), DBUsername=parameters["user"]
        )
