"""Before the server starts: its users, with the passwords that are in Secrets Manager now.

The server itself leaves an administrator that it finds as it is, and nobody could sign in to
change the password after it was replaced.
"""

import os

from mlflow.server.auth import auth_config
from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

store = SqlAlchemyStore()
store.init_db(auth_config.database_uri)
for name, password in (("admin", os.environ["ADMIN_PASSWORD"]), ("pipelines", os.environ["PIPELINES_PASSWORD"])):
    if store.has_user(name):
        store.update_user(name, password=password)
    else:
        store.create_user(name, password, is_admin=name == "admin")
