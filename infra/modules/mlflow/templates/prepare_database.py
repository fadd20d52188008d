"""Make the user that signs in by IAM, once; from then on the master's password is not needed."""

import json
import os

import boto3
import psycopg

host, user, secret, bundle = (
    os.environ[name] for name in ("DATABASE_HOST", "MLFLOW_DATABASE_USER", "MASTER_SECRET", "RDS_BUNDLE")
)
master = json.loads(boto3.client("secretsmanager").get_secret_value(SecretId=secret)["SecretString"])
with psycopg.connect(
    host=host,
    dbname="mlflow",
    user=master["username"],
    password=master["password"],
    sslmode="verify-full",
    sslrootcert=bundle,
) as connection:
    if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [user]).fetchone() is None:
        name = psycopg.sql.Identifier(user)
        for statement in (
            "CREATE USER {0}",
            "GRANT rds_iam TO {0}",
            "GRANT ALL ON DATABASE mlflow TO {0}",
            "GRANT ALL ON SCHEMA public TO {0}",
        ):
            connection.execute(psycopg.sql.SQL(statement).format(name))
