"""Commands of the pipelines, one file for each, of the same name. This package imports Ray."""

import os

# Ray reads both variables on import. Without the first, under `uv run`, it would upload the
# caller's folder and start every worker through uv. Without the second, a thread that outlives our
# Ray would start another one, open to other users.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
