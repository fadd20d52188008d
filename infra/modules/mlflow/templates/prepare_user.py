"""Once the server answers: the user that pipelines sign in as, with the password that is in Secrets Manager now."""

import os
import time

from mlflow.exceptions import MlflowException
from mlflow.server import get_app_client

address = os.environ["MLFLOW_TRACKING_URI"]
password = os.environ.pop("PIPELINES_PASSWORD")
for _ in range(120):
    try:
        get_app_client("basic-auth", tracking_uri=address).get_user("admin")
        break
    except Exception as error:  # of many kinds, as long as the server is not up
        print(f"waiting for {address}: {error}", flush=True)
        time.sleep(5)
client = get_app_client("basic-auth", tracking_uri=address)
try:
    client.create_user("pipelines", password)
except MlflowException as error:
    if error.error_code != "RESOURCE_ALREADY_EXISTS":
        raise
    client.update_user_password("pipelines", password)
