"""The commands, and where they run: the only package that imports Ray. One file per pipeline, of
the same name."""

import os

# Ray reads both when it is imported. Else under `uv run` it would upload the folder of the
# caller and start every worker through uv; and a thread that outlives our Ray would have it
# start another one, open to others.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
